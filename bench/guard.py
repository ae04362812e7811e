"""`python -m bench guard`: the cost of the guard and TLS in front of a server that takes 5 ms for every request.

Called by `bench.__main__`. The guard starts this file as its child process in place of vLLM. The server handles one
request at a time, as a GPU does; the additional time is the guard's own work.
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
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """Answers one /rerank at a time after SERVICE_S, last document first; the stub answers other paths.

    A thread waits: asyncio rounds a timer up to whole milliseconds again at each event, so its waits would depend on
    when requests arrive (5.4 ms without and 5.8 ms with a guard, at 32 in flight).
    """

    def __init__(self) -> None:
        self.stub, self.gpu = Stub(Served((MODEL,))), ThreadPoolExecutor(max_workers=1)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope.get("path") != "/rerank":
            await self.stub(scope, receive, send)
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        count = len(json.loads(body + message["body"])["documents"])
        await asyncio.get_running_loop().run_in_executor(self.gpu, time.sleep, SERVICE_S)
        results = [{"index": index, "relevance_score": (index + 1) / count} for index in reversed(range(count))]
        fields = {"id": "bench", "model": MODEL, "usage": {"total_tokens": count}, "results": results}
        answer = json.dumps(fields).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@contextmanager
def running() -> Iterator[list[BenchTarget]]:
    """Start the server alone, behind the guard, and behind the guard with TLS."""
    names: dict[str, tuple[str, ...]] = {"server": (), "guard": ("--guard",), "guard and TLS": ("--guard", "--tls")}
    with ExitStack() as stack:
        yield [stack.enter_context(running_server(name, *flags)) for name, flags in names.items()]


@contextmanager
def running_server(name: str, *flags: str) -> Iterator[BenchTarget]:
    """Start the server: with --guard behind the guard; with --guard and --tls also over TLS."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, socket.create_server((IP, 0)) as probe:
        port, key, files, tls = probe.getsockname()[1], secrets.token_hex(32), Path(folder), "--tls" in flags
        probe.close()
        authority = Authority.make("bench", ["127.0.0.0/8"])
        for file, text in zip(("cert.pem", "key.pem"), authority.issue(IP).pem(), strict=True):
            (files / file).write_text(text)
        (files / "ca.pem").write_text(authority.certificate)
        command = [sys.executable, "-m", "bench.guard"]
        if "--guard" in flags:
            guard = ["--host", IP, "--port", str(port), "--files", folder, *(["--tls"] if tls else [])]
            command = [sys.executable, "-m", "components.guard", *guard, "--", *command, str(files / "vllm.sock")]
        else:
            command.append(str(port))
        env = os.environ | {"GUARD_KEY": key}
        with subprocess.Popen(command, cwd=REPO, env=env, stdout=subprocess.DEVNULL) as process:
            try:
                url, ca = f"{'https' if tls else 'http'}://{IP}:{port}", str(files / "ca.pem") if tls else ""
                target = BenchTarget(name, url, MODEL, key, ca, pid=process.pid)
                until(lambda: _is_serving(target), within_s=30)
                yield target
            finally:
                process.terminate()  # the guard forwards the signal to its child


def _is_serving(target: BenchTarget) -> bool:
    ca = Path(target.ca).read_text() if target.ca else ""
    try:
        return bool(RerankClient(target.url, target.key, ca=ca, timeout_s=2).rerank("q", ["d"]).results)
    except ServingError:
        return False


async def serve(address: str) -> None:
    """Serve on a port or a unix socket until the process ends."""
    listening = listener(IP, int(address)) if address.isdigit() else unix_listener(address)
    await StubServer(FixedTime(), listening, ServerFault).serve()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
