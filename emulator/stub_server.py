"""A container's port: accepts connections and passes them to a server, or applies a fault to them.

Used by `stub` and `guard_shim` in separate processes, and by `stub_inline` in the emulator's event loop.
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

BACKLOG = 2048  # uvicorn's default
NO_ACCEPT = ("firewall", "frozen")  # kinds of faults that prevent an accept


class Silent(asyncio.Protocol):
    """Receives data and sends nothing."""


class EndlessHeader(asyncio.Protocol):
    """Sends response headers without end."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.next = b"HTTP/1.1 200 OK\r\n"

    def data_received(self, _data: bytes) -> None:
        if self.next.startswith(b"HTTP"):
            self._send_header()

    def _send_header(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.next)
            self.next = b"x-more: of the same\r\n"
            asyncio.get_running_loop().call_later(self.every_s, self._send_header)


Read = Callable[[], ServerFault]
Connect = Callable[[socket.socket], object]


def listener(ip: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError if the port is not free."""
    listening = socket.create_server((ip, port), backlog=BACKLOG)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # its connections inherit it
    return listening


def unix_listener(path: str) -> socket.socket:
    """Return a listening Unix socket. Removes an old socket at this path."""
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(BACKLOG)
    return listening


class Port:
    """Accepts connections and calls `connect`. `read` returns the active fault; faults after a handshake need `tls`."""

    def __init__(
        self, listening: socket.socket, read: Read, connect: Connect, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket, self.read, self.connect, self.tls = listening, read, connect, tls
        self.socket.setblocking(False)
        self.unanswered: list[socket.socket] = []
        self.handshakes = Handshakes()

    async def serve(self) -> NoReturn:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_accept()
            try:
                connection, _ = await loop.sock_accept(self.socket)
            except OSError:  # the client disconnected, or no file descriptor is free
                await asyncio.sleep(POLL_S)
                continue
            await self._wait_for_accept()  # the fault may be newer than the accept
            fault = self.read()
            if fault.kind == "hang_after_accept":
                self.unanswered.append(connection)
            elif fault.kind == "hang_after_tls":
                self.handshakes.start(Silent, connection, self.tls)
            elif fault.kind == "endless_header":
                self.handshakes.start(partial(EndlessHeader, fault.every_s), connection, self.tls)
            else:
                self.connect(connection)

    async def _wait_for_accept(self) -> None:
        """Wait while a fault prevents an accept.

        Firewall: the kernel drops connection attempts while its queue (of length one) is full.
        """
        if self.read().kind not in NO_ACCEPT:
            return
        with socket.socket(self.socket.family) as filler:
            if self.read().kind == "firewall":
                self.socket.listen(0)
                filler.setblocking(False)
                filler.connect_ex(self.socket.getsockname())
            while self.read().kind in NO_ACCEPT:
                await asyncio.sleep(POLL_S)
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        self.socket.close()
        for connection in self.unanswered:
            connection.close()
        self.handshakes.close()


class Handshakes:
    """Connects accepted sockets to asyncio protocols, with TLS if given."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(
        self, protocol: Callable[[], asyncio.Protocol], connection: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        async def connect() -> None:
            with suppress(OSError):  # also errors of the TLS handshake
                await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=tls)

        task = asyncio.get_running_loop().create_task(connect())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()


class StubServer:
    """Serves an ASGI application, with its faults, at a listening socket."""

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
        """Close all connections."""
        self.port.close()
        self.handshakes.close()
        for task in self.state.tasks:
            task.cancel()
        for protocol in list(self.state.connections):
            protocol.transport.abort()
