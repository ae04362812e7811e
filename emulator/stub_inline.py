"""The `none` runtime's container: the stub, with TLS and guard as launched, in the emulator's own loop.

No process runs the launch's boot script here, so what the script would unpack from the environment is unpacked here.
Called by `runtime`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib
import json
import ssl
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from emulator.scoring import Served, kind_of
from emulator.stub import Stub, tokens
from emulator.stub_faults import ServerFault
from emulator.stub_server import SHUT, Port, Read, StubServer, listener, unix_listener

FILES = ("FILES_0_", "FILES_1_")
LEARNS_WITHIN_S = 5.0


class InlineServer:
    """What a container serves at its ports; `folder` is its own. Raises OSError where it cannot listen."""

    def __init__(
        self,
        body: dict[str, Any],
        ip: str,
        ports: Mapping[int, int],
        folder: Path,
        *,
        read: Read,
        log: Callable[[str], None],
    ) -> None:
        env = {str(name): str(value) for name, value in (body.get("env") or {}).items()}
        stub, tls, listening = application(body, env), unpack_identity(env, folder), []
        try:
            listening += [listener(ip, outer) for outer in ports.values()]
        except OSError:
            for one in listening:
                one.close()
            raise
        self.guard: Any = None
        self.servers: list[Port | StubServer] = []
        if "-m guard" in script_of(body):
            self.guard = guard_of(files_of(env))(env, folder, tls=tls, log=log)
            # what keeps connections from being accepted does so at the container's port
            socket_path = self.guard.gate.upstream.socket_path
            self.servers.append(StubServer(stub, unix_listener(socket_path), lambda: _inside(read())))
            self.servers += [Port(one, read, self.guard.connect, self.guard.tls) for one in listening]
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
            if context is not None:
                context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            self.servers += [StubServer(stub, one, read, context) for one in listening]
        self.tasks = [asyncio.create_task(server.serve()) for server in self.servers]

    async def started(self) -> None:
        """Wait until the guard, if there is one, knows the stub."""
        if self.guard is not None:
            async with asyncio.timeout(LEARNS_WITHIN_S):
                await self.guard.gate.upstream.learn()

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for server in self.servers:
            server.close()
        if self.guard is not None:
            self.guard.close()


def _inside(fault: ServerFault) -> ServerFault:
    return ServerFault() if fault.kind in SHUT else fault


def application(body: dict[str, Any], env: Mapping[str, str]) -> Stub:
    """Return what a launch's body serves, without its guard."""
    given, key, model = flags_of(body), env.get("VLLM_API_KEY"), model_of(body)
    length = tokens(given.get("--max-model-len", "512"))
    kind = kind_of(model, template=given.get("--chat-template"))
    return Stub(Served((model,), max_model_len=length, keys=(key,) if key else (), kind=kind))


def script_of(body: dict[str, Any]) -> str:
    """Return the command of a launch in one text."""
    return " ".join(str(one) for one in body.get("args") or [body.get("args_str") or ""])


def flags_of(body: dict[str, Any]) -> dict[str, str]:
    """Return the word after each word of a launch, in the image's own form or in a boot script."""
    words = script_of(body).replace("'", "").split()
    return {before: word for before, word in reversed(list(pairwise(words)))}


def model_of(body: dict[str, Any]) -> str:
    """Return the model that a launch names."""
    given = flags_of(body)
    return given.get("--model") or given.get("serve") or "model"


def files_of(env: Mapping[str, str]) -> dict[str, str]:
    """Return the files, by name, that a boot script would unpack from the environment."""
    found: dict[str, str] = {}
    for prefix in FILES:
        packed = "".join(env[name] for name in sorted(env) if name.startswith(prefix))
        if packed:
            found |= json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def guard_of(files: Mapping[str, str]) -> Callable[..., Any]:
    """Return `make_server` of the guard's package that a container brings. A package that came before is imported."""
    modules = {name: text for name, text in files.items() if name.startswith("guard/")}
    name = f"guard_{hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest()[:12]}"
    folder = Path(_packages().name, name)
    if not folder.exists():
        folder.mkdir()
        for path, text in modules.items():
            (folder / Path(path).name).write_text(text)
    make: Callable[..., Any] = importlib.import_module(f"{name}.__main__").make_server
    return make


@cache
def _packages() -> TemporaryDirectory[str]:
    """Return a folder on the path of this process, and so of those that a guard starts."""
    made = TemporaryDirectory(prefix="emulator-guards-")
    sys.path.append(made.name)
    return made


def unpack_identity(env: Mapping[str, str], folder: Path) -> bool:
    """Write certificate and key as a boot script would; return whether the environment has any."""
    if not env.get("TLS_KEY"):
        return False
    pieces = "".join(str(env[name]) for name in sorted(env) if name.startswith("TLS_CERT_"))
    for name, label, text in (("cert.pem", "CERTIFICATE", pieces), ("key.pem", "PRIVATE KEY", env["TLS_KEY"])):
        (folder / name).write_text(f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    return True
