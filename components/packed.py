"""The files that ride into a container's environment, compressed once and kept beside this module as packed.json.

Made by `python -m scripts.pack`, and a test holds it against its sources. Not made at run time: another Python or zlib
would pack the same files into other bytes, and a running stack be replaced for nothing. A blob is named by
`components.vllm.launch`, and becomes environment only where an instance is rented, so that no state carries it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from components.vast.env_chunks import chunks

PACKED_FILE = Path(__file__).with_name("packed.json")
GUARD = "guard.py"
TEMPLATE_FILE = "chat_template.jinja"
ENV_PREFIX = "FILES_"
MAX_BLOBS = 2
DIGEST_CHARS = 12
# What bash hands to the container's python3: writes each blob's files to the folder $files.
UNPACK = f"""import base64,json,os,zlib
e=os.environ
for i in range({MAX_BLOBS}):
 b="".join(e[n] for n in sorted(e) if n.startswith("{ENV_PREFIX}%d_"%i))
 for n,t in json.loads(zlib.decompress(base64.b64decode(b))).items() if b else ():
  open(e["files"]+"/"+n,"w").write(t)"""


def packed_env(names: Iterable[str]) -> dict[str, str]:
    """Return the environment that carries these blobs: GUARD, or a model's name for its chat template."""
    env: dict[str, str] = {}
    for number, name in enumerate(sorted(names)):
        env |= {f"{ENV_PREFIX}{number}_{index:02}": piece for index, piece in enumerate(chunks(_blobs()[name]))}
    return env


def digests(names: Iterable[str]) -> dict[str, str]:
    """Return what a state keeps of these blobs: name -> 12 hex digits that change with its files."""
    return {name: hashlib.sha256(_blobs()[name].encode()).hexdigest()[:DIGEST_CHARS] for name in names}


def pack(files: dict[str, str]) -> str:
    """Return files as one blob: base64 of compressed JSON."""
    return base64.b64encode(zlib.compress(json.dumps(files).encode(), 9)).decode()


def unpacked(name: str) -> dict[str, str]:
    """Return the files of a blob by name."""
    return dict(json.loads(zlib.decompress(base64.b64decode(_blobs()[name]))))


@functools.cache
def _blobs() -> dict[str, str]:
    return dict(json.loads(PACKED_FILE.read_text()))
