"""The stub's port: takes connections, speaks TLS, serves an ASGI application, and does what its fault says instead.

Used by `stub` in a process of its own, and by `stub_inline` in the emulator's loop.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from emulator.stub_faults import POLL_S, App, Faulty, ServerFault

BACKLOG = 2048  # as uvicorn has it
SHUT = ("firewall", "frozen")  # faults that keep connections from being accepted


class Silent(asyncio.Protocol):
    """Takes what is sent and answers nothing."""


class EndlessHeader(asyncio.Protocol):
    """Answers with a header that does not end."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.next = b"HTTP/1.1 200 OK\r\n"

    def data_received(self, _data: bytes) -> None:
        if self.next.startswith(b"HTTP"):
            self.more()

    def more(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.next)
            self.next = b"x-more: of the same\r\n"
            asyncio.get_running_loop().call_later(self.every_s, self.more)


class StubServer:
    """Listens from the start on. `read` tells the fault that is on. Raises OSError where it cannot listen."""

    def __init__(
        self, app: App, ip: str, port: int, read: Callable[[], ServerFault], tls: ssl.SSLContext | None = None
    ) -> None:
        self.read = read
        self.tls = tls
        self.socket = socket.create_server((ip, port), backlog=BACKLOG)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # of its connections, as asyncio sets it
        wrapped = Faulty(app, read)
        self.config = Config(wrapped, lifespan="off", ws="none", access_log=False, log_config=None)
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = self.config.encoded_headers
        self.held: list[socket.socket] = []
        self.handshakes: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._while_shut()
            try:
                connection, _ = await loop.sock_accept(self.socket)
            except OSError:  # the caller has left, or there is no descriptor for it
                await asyncio.sleep(POLL_S)
                continue
            await self._while_shut()  # it may have come to be while nobody called
            if self.read().kind == "hang_after_accept":
                self.held.append(connection)
                continue
            task = loop.create_task(self._connect(connection))
            self.handshakes.add(task)
            task.add_done_callback(self.handshakes.discard)

    async def _connect(self, connection: socket.socket) -> None:
        fault, loop = self.read(), asyncio.get_running_loop()
        protocol: Callable[[], asyncio.Protocol]
        http: Any = AutoHTTPProtocol
        if fault.kind == "hang_after_tls":
            protocol = Silent
        elif fault.kind == "endless_header":
            protocol = partial(EndlessHeader, fault.every_s)
        else:
            protocol = partial(http, config=self.config, server_state=self.state, app_state={})
        with suppress(OSError):  # includes what a handshake fails at
            await loop.connect_accepted_socket(protocol, connection, ssl=self.tls)

    async def _while_shut(self) -> None:
        """Wait for as long as a fault keeps connections from being accepted.

        Behind a firewall nothing is heard of an attempt: the kernel drops them while its queue, of one, is full.
        """
        if self.read().kind not in SHUT:
            return
        with socket.socket() as filler:
            if self.read().kind == "firewall":
                self.socket.listen(0)
                filler.setblocking(False)
                filler.connect_ex(self.socket.getsockname())
            while self.read().kind in SHUT:
                await asyncio.sleep(POLL_S)
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        """Drop every connection."""
        self.socket.close()
        for connection in self.held:
            connection.close()
        for task in (*self.handshakes, *self.state.tasks):
            task.cancel()
        for protocol in list(self.state.connections):
            protocol.transport.abort()
