"""A CA certificate as a file, for clients that need a path. Used by bench and tests."""

import functools
import tempfile
from pathlib import Path


@functools.cache
def ca_file(pem: str) -> str:
    """Return the path of a file with this certificate. The file is deleted when the process ends."""
    path = Path(_folder().name, f"{abs(hash(pem))}.pem")
    path.write_text(pem)
    return str(path)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    # made at the first use: a process that is killed does not delete it, and most that are killed use none
    return tempfile.TemporaryDirectory(prefix="reranker-ca-")
