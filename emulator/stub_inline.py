"""A container of the runtime `none`: the stub, with the TLS and the guard of the launch, in the emulator's event loop.

No process runs the launch's boot script, so this module unpacks the files in the environment. Called by `runtime`.
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

from emulator.scoring import Served, detect_kind
from emulator.stub import Stub, parse_token_count
from emulator.stub_faults import ServerFault
from emulator.stub_server import NO_ACCEPT, Port, Read, StubServer, listener, unix_listener

FILES = ("FILES_0_", "FILES_1_")
READY_TIMEOUT_S = 5.0


class InlineServer:
    """The servers of a container; `folder` is its /tmp. Raises OSError if a port is not free."""

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
        stub, tls, sockets = build_stub(body, env), unpack_identity(env, folder), []
        try:
            for outer in ports.values():
                sockets.append(listener(ip, outer))
        except OSError:
            for listening in sockets:
                listening.close()
            raise
        self.guard: Any = None
        self.servers: list[Port | StubServer] = []
        if "-m guard" in launch_command(body):
            self.guard = import_guard(unpack_files(env))(env, folder, tls=tls, log=log)
            # faults that prevent an accept act at the container's port, the others behind the guard
            socket_path = self.guard.gate.upstream.socket_path
            self.servers.append(StubServer(stub, unix_listener(socket_path), lambda: _without_accept_faults(read())))
            self.servers += [Port(listening, read, self.guard.connect, self.guard.gate.tls) for listening in sockets]
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
            if context is not None:
                context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            self.servers += [StubServer(stub, listening, read, context) for listening in sockets]
        self.tasks = [asyncio.create_task(server.serve()) for server in self.servers]

    async def wait_ready(self) -> None:
        """Wait until the guard, if any, has read the stub's models."""
        if self.guard is not None:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self.guard.gate.upstream.learn()

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for server in self.servers:
            server.close()
        if self.guard is not None:
            self.guard.close()


def _without_accept_faults(fault: ServerFault) -> ServerFault:
    return ServerFault() if fault.kind in NO_ACCEPT else fault


def build_stub(body: dict[str, Any], env: Mapping[str, str]) -> Stub:
    """Return the stub for the body of a launch, without its guard."""
    flags, key, model = parse_flags(body), env.get("VLLM_API_KEY"), parse_model(body)
    length = parse_token_count(flags.get("--max-model-len", "512"))
    kind = detect_kind(model, template=flags.get("--chat-template"))
    return Stub(Served((model,), max_model_len=length, keys=(key,) if key else (), kind=kind))


def launch_command(body: dict[str, Any]) -> str:
    """Return the command of a launch as a string."""
    return " ".join(str(arg) for arg in body.get("args") or [body.get("args_str") or ""])


def parse_flags(body: dict[str, Any]) -> dict[str, str]:
    """Return the flags of a launch: each word of the command with the next word (first occurrence)."""
    words = launch_command(body).replace("'", "").split()
    return dict(reversed(list(pairwise(words))))


def parse_model(body: dict[str, Any]) -> str:
    """Return the model of a launch."""
    flags = parse_flags(body)
    return flags.get("--model") or flags.get("serve") or "model"


def unpack_files(env: Mapping[str, str]) -> dict[str, str]:
    """Return the files in the environment, name -> text, as the boot script unpacks them."""
    files: dict[str, str] = {}
    for prefix in FILES:
        packed = "".join(env[name] for name in sorted(env) if name.startswith(prefix))
        if packed:
            files |= json.loads(zlib.decompress(base64.b64decode(packed)))
    return files


def import_guard(files: Mapping[str, str]) -> Callable[..., Any]:
    """Return `make_server` of the guard package in a launch's files. The same package is written only once."""
    modules = {name: text for name, text in files.items() if name.startswith("guard/")}
    name = f"guard_{hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest()[:12]}"
    folder = Path(_packages_folder().name, name)
    if not folder.exists():
        folder.mkdir()
        for path, text in modules.items():
            (folder / Path(path).name).write_text(text)
    make: Callable[..., Any] = importlib.import_module(f"{name}.__main__").make_server
    return make


@cache
def _packages_folder() -> TemporaryDirectory[str]:
    """Return a folder in sys.path of this process and of the processes of a guard."""
    folder = TemporaryDirectory(prefix="emulator-guards-")
    sys.path.append(folder.name)
    return folder


def unpack_identity(env: Mapping[str, str], folder: Path) -> bool:
    """Write the certificate and key of the environment to `folder`. Return False if it has none."""
    if not env.get("TLS_KEY"):
        return False
    pieces = "".join(str(env[name]) for name in sorted(env) if name.startswith("TLS_CERT_"))
    for name, label, text in (("cert.pem", "CERTIFICATE", pieces), ("key.pem", "PRIVATE KEY", env["TLS_KEY"])):
        (folder / name).write_text(f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    return True
