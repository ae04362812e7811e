"""A container's port: takes connections, and hands them to a server, or does what its fault says instead.

Used by `stub` and `guard_shim` in processes of their own, and by `stub_inline` in the emulator's loop.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

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


Read = Callable[[], ServerFault]
Connect = Callable[[socket.socket], object]


def listener(ip: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError where it cannot listen."""
    made = socket.create_server((ip, port), backlog=BACKLOG)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # of its connections, as asyncio sets it
    return made


def unix_listener(path: str) -> socket.socket:
    """Return a socket that listens at a path, in place of one that was left there."""
    Path(path).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen(BACKLOG)
    return made


class Port:
    """Accepts connections for `connect`. `read` tells the fault that is on; `tls`: the server's, for some of them."""

    def __init__(
        self, listening: socket.socket, read: Read, connect: Connect, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket, self.read, self.connect, self.tls = listening, read, connect, tls
        self.socket.setblocking(False)
        self.held: list[socket.socket] = []
        self.handshakes = Handshakes()

    async def serve(self) -> NoReturn:
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
            fault = self.read()
            if fault.kind == "hang_after_accept":
                self.held.append(connection)
            elif fault.kind == "hang_after_tls":
                self.handshakes.start(Silent, connection, self.tls)
            elif fault.kind == "endless_header":
                self.handshakes.start(partial(EndlessHeader, fault.every_s), connection, self.tls)
            else:
                self.connect(connection)

    async def _while_shut(self) -> None:
        """Wait for as long as a fault keeps connections from being accepted.

        Behind a firewall nothing is heard of an attempt: the kernel drops them while its queue, of one, is full.
        """
        if self.read().kind not in SHUT:
            return
        with socket.socket(self.socket.family) as filler:
            if self.read().kind == "firewall":
                self.socket.listen(0)
                filler.setblocking(False)
                filler.connect_ex(self.socket.getsockname())
            while self.read().kind in SHUT:
                await asyncio.sleep(POLL_S)
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        self.socket.close()
        for connection in self.held:
            connection.close()
        self.handshakes.close()


class Handshakes:
    """Makes protocols of accepted connections."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(
        self, protocol: Callable[[], asyncio.Protocol], connection: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        async def connect() -> None:
            with suppress(OSError):  # includes what a handshake fails at
                await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=tls)

        task = asyncio.get_running_loop().create_task(connect())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()


class StubServer:
    """Serves an ASGI application, which goes wrong as its fault says, at a listening socket."""

    def __init__(self, app: App, listening: socket.socket, read: Read, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.config = Config(Faulty(app, read), lifespan="off", ws="none", access_log=False, log_config=None)
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = self.config.encoded_headers
        self.handshakes = Handshakes()
        self.port = Port(listening, read, self._connect, tls)

    async def serve(self) -> NoReturn:
        """Serve until cancelled."""
        await self.port.serve()

    def _connect(self, connection: socket.socket) -> None:
        http: Any = AutoHTTPProtocol
        protocol = partial(http, config=self.config, server_state=self.state, app_state={})
        self.handshakes.start(protocol, connection, self.tls)

    def close(self) -> None:
        """Drop every connection."""
        self.port.close()
        self.handshakes.close()
        for task in self.state.tasks:
            task.cancel()
        for protocol in list(self.state.connections):
            protocol.transport.abort()
