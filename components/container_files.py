"""The files of a container besides its command: the guard and a model's chat template. Called by vllm.launch.

States and labels contain digests of the sources. A file is packed into the environment when an instance is rented.
So another Python or zlib, which packs the same text into other bytes, causes no replacement. Code is packed without
comments and docstrings, so that most of the environment's limit is left for the user.
"""

from __future__ import annotations

import ast
import base64
import functools
import hashlib
import io
import json
import tokenize
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
# The container's boot script passes this to python3: it writes the files to the folder $files and its guard folder.
UNPACK = f"""import base64,json,os,zlib
e=os.environ
os.makedirs(e["files"]+"/{GUARD}",exist_ok=True)
for i in range({MAX_FILES}):
 b="".join(e[n] for n in sorted(e) if n.startswith("{ENV_PREFIX}%d_"%i))
 for n,t in json.loads(zlib.decompress(base64.b64decode(b))).items() if b else ():
  open(e["files"]+"/"+n,"w").write(t)"""


def digests(names: Iterable[str]) -> dict[str, str]:
    """Return the digests for the state by file name: 12 hex digits that change with the text."""
    return {name: _digest(_content(name)) for name in names}


def packed_env(files: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with these files. `files`: their names and expected digests.

    Raises ConfigError if a source has changed: the container would not match its label.
    """
    contents = {name: _content(name) for name in sorted(files)}
    if any(_digest(content) != files[name] for name, content in contents.items()):
        raise ConfigError([f"{' or '.join(files)} was edited while this `up` ran: run it again"])
    env: dict[str, str] = {}
    for number, content in enumerate(contents.values()):
        texts = {path: _code(text) if path.endswith(".py") else text for path, text in content.items()}
        packed = base64.b64encode(zlib.compress(json.dumps(texts).encode(), 9)).decode()
        env |= {f"{ENV_PREFIX}{number}_{index:03}": chunk for index, chunk in enumerate(chunks(packed))}
    return env


def _digest(content: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:DIGEST_CHARS]


def _content(name: str) -> dict[str, str]:
    """Return texts by path in the container: the guard's modules, or a model's chat template."""
    if name == GUARD:
        paths = sorted(GUARD_FOLDER.glob("*.py"))
        return {f"{GUARD}/{path.name}": path.read_text(encoding="utf-8") for path in paths}
    from components.vllm.catalog import load_catalog  # noqa: PLC0415 - a plugin needs it only to rent

    template = load_catalog().model(name).chat_template or ""
    return {TEMPLATE_FILE: template.removesuffix("\n") + "\n"}  # Jinja drops the newline at the end


@functools.cache  # one `up` rents many instances
def _code(source: str) -> str:
    """Return Python source without docstrings and the comments that fill a line. All other lines keep their numbers,
    for tracebacks."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), end_lineno=int(end)):
                lines[node.lineno - 1 : end] = [" " * node.col_offset + '""'] + [""] * (end - node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            lines[token.start[0] - 1] = ""
    return "\n".join([*lines, ""])
