"""Long text in a container's environment: in chunks, since Vast.ai takes 256 characters in one value.

Called by identity, components.container_files and components.caddy.launch; each container joins them by name.
"""

from __future__ import annotations

CHUNK_CHARS = 250


def chunks(text: str) -> list[str]:
    """Return the text in values that Vast.ai takes, in order."""
    return [text[at : at + CHUNK_CHARS] for at in range(0, len(text), CHUNK_CHARS)]
