"""The `none` runtime's container: the stub, with TLS and middleware as launched, in the emulator's own loop.

No process runs the launch's boot script here, so what the script would unpack from the environment is unpacked here.
Called by `runtime`.
"""

from __future__ import annotations

import base64
import json
import ssl
import types
import zlib
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from emulator.scoring import Served, kind_of
from emulator.stub import Stub, tokens
from emulator.stub_faults import App

FILES = ("FILES_0_", "FILES_1_")


def application(body: dict[str, Any]) -> App:
    """Return what a launch's body serves."""
    env = {str(name): str(value) for name, value in (body.get("env") or {}).items()}
    given, key, model = flags_of(body), env.get("VLLM_API_KEY"), model_of(body)
    length = tokens(given.get("--max-model-len", "512"))
    kind = kind_of(model, template=given.get("--chat-template"))
    app: App = Stub(Served((model,), max_model_len=length, keys=(key,) if key else (), kind=kind))
    return wrapped(app, given["--middleware"], env) if "--middleware" in given else app


def flags_of(body: dict[str, Any]) -> dict[str, str]:
    """Return the word after each word of a launch, in the image's own form or in a boot script."""
    words = " ".join(str(one) for one in body.get("args") or [body.get("args_str") or ""]).replace("'", "").split()
    return {before: word for before, word in reversed(list(pairwise(words)))}


def model_of(body: dict[str, Any]) -> str:
    """Return the model that a launch names."""
    given = flags_of(body)
    return given.get("--model") or given.get("serve") or "model"


def wrapped(app: App, path: str, env: Mapping[str, str]) -> App:
    """Return an application behind the middleware that a container brings in its environment, if it does."""
    module, _, name = path.rpartition(".")
    source = files_of(env).get(f"{module}.py")
    if source is None:
        return app
    made = types.ModuleType(module)
    exec(_compiled(source), vars(made))  # noqa: S102 - the emulator runs what a container would
    keys = env.get("GUARD_KEYS", "").split(",")
    guarded: App = getattr(made, name)(app, json.loads(env.get("GUARD") or "{}"), keys)
    return guarded


def files_of(env: Mapping[str, str]) -> dict[str, str]:
    """Return the files, by name, that a boot script would unpack from the environment."""
    found: dict[str, str] = {}
    for prefix in FILES:
        packed = "".join(env[name] for name in sorted(env) if name.startswith(prefix))
        if packed:
            found |= json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


@lru_cache
def _compiled(source: str) -> types.CodeType:
    return compile(source, "middleware", "exec")


def tls_of(body: dict[str, Any], folder: Path) -> ssl.SSLContext | None:
    """Return what the identity in a container's environment makes of the port, as its boot script would."""
    env = body.get("env") or {}
    if not env.get("TLS_KEY"):
        return None
    pieces = "".join(str(env[name]) for name in sorted(env) if name.startswith("TLS_CERT_"))
    for name, label, text in (("cert.pem", "CERTIFICATE", pieces), ("key.pem", "PRIVATE KEY", env["TLS_KEY"])):
        (folder / name).write_text(f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
