"""The files that ride into a container's environment, compressed once and kept beside this module as packed.json.

Made by `python -m scripts.pack`, and a test holds it against its sources. Not made at run time: another Python or zlib
would pack the same files into other bytes, and a running stack be replaced for nothing. Called by `launch`.
"""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

PACKED_FILE = Path(__file__).with_name("packed.json")
GUARD = "guard.py"
TEMPLATE_FILE = "chat_template.jinja"
ENV_PREFIX = "FILES_"
PIECE_CHARS = 250  # Vast.ai takes 256 characters in an environment value
MAX_BLOBS = 2
# What bash hands to the container's python3: writes each blob's files to the folder $files.
UNPACK = f"""import base64,json,os,zlib
e=os.environ
for i in range({MAX_BLOBS}):
 b="".join(e[n] for n in sorted(e) if n.startswith("{ENV_PREFIX}%d_"%i))
 for n,t in json.loads(zlib.decompress(base64.b64decode(b))).items() if b else ():
  open(e["files"]+"/"+n,"w").write(t)"""


def packed_env(names: Sequence[str]) -> dict[str, str]:
    """Return the environment that carries these blobs: GUARD, or a model's name for its chat template."""
    env: dict[str, str] = {}
    for number, name in enumerate(names):
        blob = _blobs()[name]
        pieces = [blob[at : at + PIECE_CHARS] for at in range(0, len(blob), PIECE_CHARS)]
        env |= {f"{ENV_PREFIX}{number}_{index:02}": piece for index, piece in enumerate(pieces)}
    return env


def pack(files: dict[str, str]) -> str:
    """Return files as one blob: base64 of compressed JSON."""
    return base64.b64encode(zlib.compress(json.dumps(files).encode(), 9)).decode()


def unpacked(name: str) -> dict[str, str]:
    """Return the files of a blob by name."""
    return dict(json.loads(zlib.decompress(base64.b64decode(_blobs()[name]))))


@functools.cache
def _blobs() -> dict[str, str]:
    return dict(json.loads(PACKED_FILE.read_text()))
