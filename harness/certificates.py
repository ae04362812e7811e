"""A CA certificate as a file, for clients that need a path. Used by bench and tests."""

import functools
import tempfile
from pathlib import Path

FOLDER = tempfile.TemporaryDirectory(prefix="reranker-ca-")


@functools.cache
def ca_file(pem: str) -> str:
    """Return the path of a file with this certificate. The file is deleted when the process ends."""
    path = Path(FOLDER.name, f"{abs(hash(pem))}.pem")
    path.write_text(pem)
    return str(path)
