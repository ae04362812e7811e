"""The files that a container gets beside its command: the guard, and a model's chat template. Called by vllm.launch.

States and labels hold digests of their sources. A file is packed into the environment when an instance is rented, so
that another Python or zlib, which packs the same text into other bytes, replaces nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from components.errors import ConfigError
from components.vast.identity import chunks

GUARD = "guard"
GUARD_FOLDER = Path(__file__).parent / GUARD
TEMPLATE_FILE = "chat_template.jinja"
ENV_PREFIX = "FILES_"
MAX_FILES = 2
DIGEST_CHARS = 12
# What bash hands to the container's python3: writes each file to the folder $files, and into the guard's in it.
UNPACK = f"""import base64,json,os,zlib
e=os.environ
os.makedirs(e["files"]+"/{GUARD}",exist_ok=True)
for i in range({MAX_FILES}):
 b="".join(e[n] for n in sorted(e) if n.startswith("{ENV_PREFIX}%d_"%i))
 for n,t in json.loads(zlib.decompress(base64.b64decode(b))).items() if b else ():
  open(e["files"]+"/"+n,"w").write(t)"""


def digests(names: Iterable[str]) -> dict[str, str]:
    """Return what a state keeps of these files: name -> 12 hex digits that change with the text."""
    return {name: hashlib.sha256(_content(name)).hexdigest()[:DIGEST_CHARS] for name in names}


def packed_env(files: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that carries these files, given by name with the digests that they must have.

    Raises ConfigError where a source was edited since: the container would not run what its label says.
    """
    if digests(files) != dict(files):
        raise ConfigError([f"{' or '.join(files)} was edited while this `up` ran: run it again"])
    env: dict[str, str] = {}
    for number, name in enumerate(sorted(files)):
        packed = base64.b64encode(zlib.compress(_content(name), 9)).decode()
        env |= {f"{ENV_PREFIX}{number}_{index:02}": chunk for index, chunk in enumerate(chunks(packed))}
    return env


def _content(name: str) -> bytes:
    """Return files by their paths in the container, in JSON: the guard's modules, or a model's chat template."""
    if name == GUARD:
        paths = sorted(GUARD_FOLDER.glob("*.py"))
        files = {f"{GUARD}/{path.name}": path.read_text(encoding="utf-8") for path in paths}
    else:
        from components.vllm.catalog import load_catalog  # noqa: PLC0415 - a plugin needs it only to rent

        template = load_catalog().model(name).chat_template or ""
        # a text file ends in a newline, which Jinja drops again
        files = {TEMPLATE_FILE: template.removesuffix("\n") + "\n"}
    return json.dumps(files).encode()
