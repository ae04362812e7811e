"""`python3 -m guard --port N --files FOLDER [--tls] -- COMMAND`: starts vLLM as a child and serves in front of it.

Run by the boot script, see components.vllm.launch. The guard exits when vLLM exits, with the same code, and stops vLLM
when it exits itself. Options come as JSON in GUARD, the management key in GUARD_KEY; vLLM's environment has neither.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from .certificate import CertificateStore
from .connection import DEFAULT, Bounds
from .gate import Gate
from .keys import KeyStore
from .rules import Rules
from .server import BACKLOG, GuardServer
from .upstream import VllmUpstream

OPTIONS_ENV, KEY_ENV = "GUARD", "GUARD_KEY"
NOT_FOR_VLLM = ("GUARD", "TLS_")
SOCKET = "vllm.sock"
Accept = Callable[[GuardServer, socket.socket], Awaitable[Any]]


def make_server(
    env: Mapping[str, str], files: Path, *, tls: bool, log: Callable[[str], object], bounds: Bounds = DEFAULT
) -> GuardServer:
    """Return the server configured by an environment; the folder `files` has certificate and key, and stores state."""
    options = json.loads(env.get(OPTIONS_ENV) or "{}")
    open_paths = frozenset(["/health"] if options.pop("open_health", False) else [])
    rules = Rules(**options | {"models": tuple(options.get("models", ()))})
    keys = KeyStore(env.get(KEY_ENV, "").strip(), files / "keys.json", now=time.time)
    certificate = CertificateStore(files / "cert.pem", files / "key.pem") if tls else None
    if certificate and keys.access.client_ca:
        certificate.set_client_ca(keys.access.client_ca)
    return GuardServer(Gate(rules, keys, VllmUpstream(str(files / SOCKET)), open_paths, certificate, log), bounds)


def listener(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError."""
    listening = socket.create_server((host, port), backlog=BACKLOG)
    listening.setblocking(False)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # inherited by connections, as asyncio sets it
    return listening


async def run(
    server: GuardServer, listening: socket.socket, command: list[str], accept: Accept = GuardServer.accept
) -> int:
    """Start vLLM, serve until it exits, and return its exit code in the form of a shell."""
    Path(server.gate.upstream.socket_path).unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_VLLM)}
    child = await asyncio.create_subprocess_exec(*command, env=env)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, child.send_signal, number)
    exited = asyncio.ensure_future(child.wait())
    tasks = [asyncio.ensure_future(accept(server, listening)), asyncio.ensure_future(server.gate.upstream.learn())]
    try:
        await asyncio.wait({exited, tasks[0]}, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()  # raises the error
        code = await exited
        return code if code >= 0 else 128 - code
    finally:
        server.close()
        if child.returncode is None:
            child.kill()
            await exited


def _log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: list[str], accept: Accept = GuardServer.accept) -> int:
    split = argv.index("--")
    flags = argparse.ArgumentParser(prog="guard")
    flags.add_argument("--host", default="0.0.0.0")  # noqa: S104 - the container's port is published on purpose
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--files", type=Path, required=True)
    flags.add_argument("--tls", action="store_true")
    args = flags.parse_args(argv[:split])
    server = make_server(os.environ, args.files, tls=args.tls, log=_log)
    return asyncio.run(run(server, listener(args.host, args.port), argv[split + 1 :], accept))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
