"""Long text in a container's environment: in pieces, since Vast.ai takes 256 characters in one value.

Called by identity, components.container_files and components.caddy.launch; each container joins them by name.
"""

from __future__ import annotations

PIECE_CHARS = 250


def chunks(text: str) -> list[str]:
    """Return the text in values that Vast.ai takes, in order."""
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
