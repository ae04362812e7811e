"""`python -m bench guard`: what the guard and TLS cost in front of a server whose every request takes 5 ms.

Called by `bench.__main__`; the guard starts this file as its child, in vLLM's place. The server does one request at a
time, as a GPU does, so what is measured beside it is the guard's own work. Server and guard are processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.load import BenchTarget
from components.errors import ServingError
from components.vast.identity import Authority
from components.vllm.client import RerankClient
from emulator.scoring import Served
from emulator.stub import Stub
from emulator.stub_faults import ServerFault
from emulator.stub_server import StubServer, listener, unix_listener
from harness.stack import REPO
from harness.wait import until

SERVICE_S = 0.005
MODEL, IP = "bench", "127.0.0.1"


class FixedTime:
    """Answers /rerank after SERVICE_S, the last document first, one request at a time; the rest is the stub's."""

    def __init__(self) -> None:
        self.stub, self.gpu = Stub(Served((MODEL,))), asyncio.Lock()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope.get("path") != "/rerank":
            await self.stub(scope, receive, send)
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        count = len(json.loads(body + message["body"])["documents"])
        async with self.gpu:
            await asyncio.sleep(SERVICE_S)
        results = [{"index": index, "relevance_score": (index + 1) / count} for index in reversed(range(count))]
        answer = json.dumps(
            {"id": "bench", "model": MODEL, "usage": {"total_tokens": count}, "results": results}
        ).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@contextmanager
def running() -> Iterator[list[BenchTarget]]:
    """Start the server alone, behind the guard, and behind the guard with TLS."""
    with ExitStack() as stack:
        yield [stack.enter_context(target(name, *flags)) for name, flags in NAMES.items()]


NAMES: dict[str, tuple[str, ...]] = {"server": (), "guard": ("--guard",), "guard and TLS": ("--guard", "--tls")}


@contextmanager
def target(name: str, *flags: str) -> Iterator[BenchTarget]:
    """Start the server, with --guard behind the guard, with --tls too over TLS."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, socket.create_server((IP, 0)) as probe:
        port, key, files = probe.getsockname()[1], secrets.token_hex(32), Path(folder)
        probe.close()
        authority = Authority.make("bench", ["127.0.0.0/8"])
        for file, text in zip(("cert.pem", "key.pem"), authority.issue(IP).pem(), strict=True):
            (files / file).write_text(text)
        (files / "ca.pem").write_text(authority.certificate)
        command = [sys.executable, "-m", "bench.guard"]
        if "--guard" in flags:
            guard = ["--host", IP, "--port", str(port), "--files", folder, *(["--tls"] if "--tls" in flags else [])]
            command = [sys.executable, "-m", "components.guard", *guard, "--", *command, str(files / "vllm.sock")]
        else:
            command.append(str(port))
        env = os.environ | {"GUARD_KEY": key}
        with subprocess.Popen(command, cwd=REPO, env=env, stdout=subprocess.DEVNULL) as process:
            try:
                tls = "--tls" in flags
                found = BenchTarget(
                    name,
                    f"{'https' if tls else 'http'}://{IP}:{port}",
                    MODEL,
                    key,
                    str(files / "ca.pem") if tls else "",
                )
                until(lambda: _serves(found), within_s=30)
                yield found
            finally:
                process.terminate()  # the guard passes it on


def _serves(target: BenchTarget) -> bool:
    ca = Path(target.ca).read_text() if target.ca else ""
    try:
        return bool(RerankClient(target.url, target.key, ca=ca, timeout_s=2).rerank("q", ["d"]).results)
    except ServingError:
        return False


async def serve(where: str) -> None:
    """Serve at a port or at a unix socket until the process ends."""
    listening = listener(IP, int(where)) if where.isdigit() else unix_listener(where)
    await StubServer(FixedTime(), listening, ServerFault).serve()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
