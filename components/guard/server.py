"""The guard's sockets: limits on connections, TLS, HTTP with h11, and a deadline for each step of a request.

Started by `__main__`. The emulator accepts connections itself and passes them to `connect`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import h11

from .gate import Gate, Reply, Request, error_reply
from .keys import Bucket
from .rules import Refusal

# The size of one read, and the largest incomplete header: together less than 32 KiB.
READ_BYTES = 15 << 10
MAX_HEADER_BYTES = 16 << 10
BACKLOG = 1024
MAX_ADDRESSES = 4096  # above this number, full buckets are removed


@dataclass(frozen=True)
class Bounds:
    """Deadlines of each step, and limits on connections.

    `drain_bytes`: the part of a refused body that the guard reads, so that the client reads the answer, within
    `drain_s`, with pauses of at most `quiet_s`; `..._without_key`: of a request without a valid key. `without_key_...`:
    the connections that an address may open at once, and per second, until one of its requests has a valid key.
    """

    handshake_s: float = 10.0
    shutdown_s: float = 5.0
    header_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    send_s: float = 60.0
    drain_s: float = 5.0
    quiet_s: float = 1.0
    drain_bytes: int = 64 << 20
    drain_bytes_without_key: int = 256 << 10
    connections: int = 512
    without_key_burst: int = 64
    without_key_per_s: float = 20.0


DEFAULT = Bounds()


class GuardServer:
    """Serves connections until it is cancelled."""

    def __init__(self, gate: Gate, bounds: Bounds = DEFAULT) -> None:
        self.gate, self.bounds = gate, bounds
        self.connections: dict[Connection, asyncio.Task[None]] = {}
        self.allowances: dict[str, Bucket] = {}
        gate.context_changed = self._close_idle

    @property
    def tls(self) -> ssl.SSLContext | None:
        return self.gate.certificate.context if self.gate.certificate else None

    async def accept(self, listener: socket.socket) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # the client disconnected, or no file descriptor is free
                await asyncio.sleep(0.05)
                continue
            self.connect(sock)
            await asyncio.sleep(0)  # start one handshake per iteration of the event loop, so that clients are served

    def connect(self, sock: socket.socket) -> None:
        """Serve a connection, unless its address has opened too many without a valid key. At the limit of all of them,
        close the oldest without a valid key, or an idle one."""
        sock.setblocking(False)
        try:
            address = str(sock.getpeername()[0])
        except OSError:
            sock.close()
            return
        bounds, allowance = self.bounds, self._allowance(address)
        if allowance.take(1, bounds.without_key_per_s, bounds.without_key_burst, time.monotonic()):
            sock.close()  # before the expensive handshake
            return
        if len(self.connections) >= bounds.connections:
            unknown = [other for other in self.connections if not other.has_valid_key]
            if not (candidates := unknown or self._idle_connections()):
                sock.close()
                return
            self.connections.pop(candidates[0]).cancel()
        connection = Connection(self, sock, allowance)
        task = self.connections[connection] = asyncio.get_running_loop().create_task(connection.run())
        task.add_done_callback(lambda _: self.connections.pop(connection, None))

    def _allowance(self, address: str) -> Bucket:
        """Return the bucket of connections that an address may open before it sends a valid key."""
        now, full = time.monotonic(), float(self.bounds.without_key_burst)
        if len(self.allowances) >= MAX_ADDRESSES:
            refill_s = full / self.bounds.without_key_per_s
            self.allowances = {key: bucket for key, bucket in self.allowances.items() if now - bucket.at < refill_s}
        return self.allowances.setdefault(address, Bucket(full, now))

    def _idle_connections(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.is_idle]

    def _close_idle(self) -> None:
        """Close the idle connections: the next requests then use new ones, with the new TLS context."""
        for connection in self._idle_connections():
            self.connections.pop(connection).cancel()

    def close(self) -> None:
        for task in self.connections.values():
            task.cancel()
        self.gate.close()


class Protocol(asyncio.StreamReaderProtocol):
    """Cancels the request at vLLM as soon as the client disconnects."""

    connection: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connection.transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self.connection.cancel_request()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.cancel_request()
        del self.connection  # breaks a reference cycle that holds asyncio's TLS read buffer of 256 KiB
        super().connection_lost(exc)


class Connection:
    """A client connection. `has_valid_key`: its last request had a valid key. `is_idle`: it waits for a request."""

    def __init__(self, server: GuardServer, sock: socket.socket, allowance: Bucket) -> None:
        self.server, self.gate, self.bounds = server, server.gate, server.bounds
        self.sock, self.allowance, self.transport = sock, allowance, cast("asyncio.Transport | None", None)
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self.has_valid_key = self.is_idle = self.is_at_vllm = self.expects_continue = False
        self.tls, self.certified_until = server.tls, 0.0

    @property
    def is_stale(self) -> bool:
        """Whether the TLS context was replaced after this connection was opened."""
        return self.tls is not self.server.tls

    def cancel_request(self) -> None:
        if self.is_at_vllm and (task := self.server.connections.get(self)):
            task.cancel()

    async def run(self) -> None:
        """Do the TLS handshake and serve requests until one side closes the connection."""
        loop, tls = asyncio.get_running_loop(), self.tls
        self.reader = asyncio.StreamReader(READ_BYTES)
        protocol = Protocol(self.reader)
        protocol.connection = self
        handshake_s, shutdown_s = (self.bounds.handshake_s, self.bounds.shutdown_s) if tls else (None, None)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, self.sock, ssl=tls, ssl_handshake_timeout=handshake_s, ssl_shutdown_timeout=shutdown_s
            )
            if certificate := transport.get_extra_info("peercert"):  # the handshake has verified it
                self.certified_until = ssl.cert_time_to_seconds(certificate["notAfter"])
            self.writer = asyncio.StreamWriter(transport, protocol, self.reader, loop)
            while await self._serve_request():
                self.http.start_next_cycle()
            transport.close()
            async with asyncio.timeout(self.bounds.shutdown_s):
                await self.writer.wait_closed()
        except (OSError, h11.ProtocolError) as error:  # includes failed handshakes and deadlines
            error.__traceback__ = None  # asyncio's frames in it refer to the error
        finally:
            # do not close the socket itself: asyncio still owns it, and a new connection could get the same descriptor
            if self.transport is not None:
                self.transport.abort()
            for name in ("reader", "writer"):  # they keep the connection's error, which keeps this frame in memory
                vars(self).pop(name, None)

    async def _serve_request(self) -> bool:
        """Serve a request; return whether the connection can serve another one."""
        request = None
        try:
            head = await self._read_header()
            if head is None or self.is_stale:
                return False
            method, target = head.method.decode("latin-1"), head.target.decode("latin-1")
            request = Request(method, target.partition("?")[0], list(head.headers), self.certified_until)
            await self._answer(request)
        except Refusal as refusal:
            await self._send(request, error_reply(refusal))
        except h11.RemoteProtocolError as error:
            if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                raise
            is_too_long = error.error_status_hint == 431
            text = "the header is too long" if is_too_long else "the request is not valid HTTP/1.1"
            await self._send(request, error_reply(Refusal(431 if is_too_long else 400, text)))
        return await self._drain()

    async def _read_header(self) -> h11.Request | None:
        """Return a request's header; None if the client disconnected. Raises TimeoutError."""
        event = self.http.next_event()
        if event is h11.NEED_DATA and not self.http.trailing_data[0]:
            self.is_idle = True
            async with asyncio.timeout(self.bounds.idle_s if self.has_valid_key else self.bounds.header_s):
                self.http.receive_data(await self.reader.read(READ_BYTES))
            self.is_idle = False
            event = self.http.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout(self.bounds.header_s):
                event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        names = [name for name, _ in event.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise h11.RemoteProtocolError("both transfer-encoding and content-length")
        return event

    async def _next_event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(READ_BYTES))
        return event

    async def _answer(self, request: Request) -> None:
        self.has_valid_key = False
        self.gate.admit(request)
        self.has_valid_key = request.key is not None
        if self.has_valid_key:
            self.allowance.available = self.bounds.without_key_burst
        declared = request.values(b"content-length")
        size = int(declared[0][:20]) if declared else 0
        max_bytes = self.gate.max_bytes(request)
        if size > max_bytes:
            raise _too_large(max_bytes)
        with self.gate.room_for(max_bytes if request.values(b"transfer-encoding") else size):
            try:
                async with asyncio.timeout(self.bounds.body_s):
                    body = await self._read_body(max_bytes)
            except TimeoutError:
                raise Refusal(408, f"the body did not arrive within {self.bounds.body_s:g} s") from None
            self.is_at_vllm = True
            try:
                async with self.gate.answer(request, body) as reply:
                    await self._send(request, reply)
            finally:
                self.is_at_vllm = False

    async def _read_body(self, max_bytes: int) -> bytes:
        if self.http.they_are_waiting_for_100_continue:
            await self._write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError
        return bytes(body)

    async def _send(self, request: Request | None, reply: Reply) -> None:
        """Send an answer within `send_s`, and record it."""
        headers = list(reply.headers)
        self.expects_continue = self.http.they_are_waiting_for_100_continue
        if self.expects_continue or self.http.their_state is h11.ERROR or self.is_stale:
            headers.append((b"connection", b"close"))
        data = self.http.send(h11.Response(status_code=reply.status, headers=headers)) or b""
        has_body = reply.status not in (204, 304) and (request is None or request.method != "HEAD")
        try:
            async with asyncio.timeout(self.bounds.send_s):
                async for part in reply.parts:
                    body = self.http.send(h11.Data(data=part)) if has_body else b""
                    await self._write(data + (body or b""))
                    data = b""
                await self._write(data + (self.http.send(h11.EndOfMessage()) or b""))
        finally:
            self.gate.record(request or Request("", "", []), reply.status)

    async def _write(self, data: bytes) -> None:
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def _drain(self) -> bool:
        """Read the rest of a refused request, within limits, so that the client can read the answer before the close.

        Return whether the request is complete, and the connection can serve another one.
        """
        budget = self.bounds.drain_bytes if self.has_valid_key else self.bounds.drain_bytes_without_key
        states = (h11.SEND_BODY, h11.ERROR)
        with suppress(TimeoutError, h11.RemoteProtocolError):
            async with asyncio.timeout(self.bounds.drain_s):
                while self.http.their_state in states and budget > 0 and not self.expects_continue:
                    async with asyncio.timeout(self.bounds.quiet_s):
                        if self.http.their_state is h11.ERROR:
                            size = len(await self.reader.read(READ_BYTES))
                        else:
                            event = await self._next_event()
                            size = len(event.data) if isinstance(event, h11.Data) else 0
                    if not size:
                        break
                    budget -= size
        return self.http.our_state is self.http.their_state is h11.DONE


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, f"the body is larger than {max_bytes} bytes")
