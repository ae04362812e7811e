"""The guard in front of an ASGI application, in a thread. Used by tests that need no container."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from components.guard.__main__ import KEY_ENV, OPTIONS_ENV, listener, make_server
from components.guard.connection import DEFAULT, Bounds
from components.guard.server import GuardServer
from emulator.stub_faults import App, ServerFault
from emulator.stub_server import StubServer, unix_listener

IP = "127.0.0.1"
STARTS_WITHIN_S = 20.0
T = TypeVar("T")


@dataclass
class RunningGuard:
    """A running guard: its port, its log lines, and its event loop."""

    port: int
    server: GuardServer
    loop: asyncio.AbstractEventLoop
    log: list[str] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return IP, self.port

    def in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(STARTS_WITHIN_S)


@contextmanager
def guarded(
    app: App,
    key: str,
    options: Mapping[str, Any] | None = None,
    identity: tuple[str, str] | None = None,
    *,
    port: int = 0,
    upstream: bool = True,
    bounds: Bounds = DEFAULT,
) -> Iterator[RunningGuard]:
    """Run a guard during a block. `identity`: certificate and key as PEM. `upstream` False: vLLM has not started."""
    loop, log = asyncio.new_event_loop(), list[str]()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with TemporaryDirectory(prefix="guard-") as folder:
        files = Path(folder)
        for name, text in zip(("cert.pem", "key.pem"), identity or (), strict=False):
            (files / name).write_text(text)
        env = {KEY_ENV: key, OPTIONS_ENV: json.dumps(dict(options or {}))}
        server = make_server(env, files, tls=identity is not None, log=log.append, bounds=bounds)
        listening = listener(IP, port)
        guard = RunningGuard(listening.getsockname()[1], server, loop, log)

        async def start() -> list[asyncio.Task[Any]]:
            tasks = [loop.create_task(server.accept(listening))]
            if upstream:
                stub = StubServer(app, unix_listener(server.gate.upstream.socket_path), ServerFault)
                tasks.append(loop.create_task(stub.serve()))
                await server.gate.upstream.learn()
            return tasks

        async def end(tasks: list[asyncio.Task[Any]]) -> None:
            judging = server.gate.worker.process
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if judging is not None:
                await judging.wait()  # its pipes need the loop

        tasks = guard.in_loop(start())
        try:
            yield guard
        finally:
            guard.in_loop(end(tasks))
            listening.close()
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STARTS_WITHIN_S)
