"""A CA as a file, for clients of tests and bench that want a path."""

import functools
import tempfile
from pathlib import Path

FOLDER = tempfile.TemporaryDirectory(prefix="reranker-ca-")


@functools.cache
def ca_file(pem: str) -> str:
    """Return the path of a file with this certificate; it goes with the process."""
    path = Path(FOLDER.name, f"{abs(hash(pem))}.pem")
    path.write_text(pem)
    return str(path)
