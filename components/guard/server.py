"""The guard's sockets: connections within limits, TLS, HTTP by h11, each step of a request within a deadline.

Started by `__main__`; the emulator accepts connections itself and hands them to `connect`.
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

from .gate import Gate, Reply, Request, refused
from .keys import Bucket
from .rules import Refusal

# What is read at once, and how long a header may be that is not complete: together less than 32 KiB.
READ_BYTES = 15 << 10
MAX_HEADER_BYTES = 16 << 10
BACKLOG = 1024
MAX_ADDRESSES = 4096  # whose recent connections are counted


@dataclass(frozen=True)
class Bounds:
    """How long each step may take, and how many connections there may be.

    `drain_...`: what is read of a refused body, so that the refusal is read: of a client's, of anybody else's.
    `unproven_...`: how many connections an address may open at once, and how many more per second, until it shows a
    valid key on one of them.
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
    drain_bytes_unknown: int = 1 << 20
    connections: int = 512
    unproven_burst: int = 64
    unproven_per_s: float = 20.0


DEFAULT = Bounds()


class GuardServer:
    """Serves connections until cancelled."""

    def __init__(self, gate: Gate, bounds: Bounds = DEFAULT) -> None:
        self.gate, self.bounds = gate, bounds
        self.open: dict[Connection, asyncio.Task[None]] = {}
        self.allowances: dict[str, Bucket] = {}
        gate.context_changed = self._close_idle

    @property
    def tls(self) -> ssl.SSLContext | None:
        return self.gate.certificate.context if self.gate.certificate else None

    async def accept(self, listener: socket.socket) -> NoReturn:
        """Serve every connection of a listener."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # the caller has left, or there is no descriptor for it
                await asyncio.sleep(0.05)
                continue
            self.connect(connection)
            await asyncio.sleep(0)  # one handshake begins in each turn of the loop, so that clients are served between

    def connect(self, connection: socket.socket) -> None:
        """Serve a connection, if there is room for it or room can be made."""
        connection.setblocking(False)
        try:
            address = str(connection.getpeername()[0])
        except OSError:
            connection.close()
            return
        bounds, allowance = self.bounds, self._allowance(address)
        if allowance.take(1, bounds.unproven_per_s, bounds.unproven_burst, time.monotonic()):
            connection.close()  # before the handshake, which is what costs
            return
        if len(self.open) >= bounds.connections:
            unknown = [one for one in self.open if not one.known]
            if not (victims := unknown or [one for one in self.open if one.idle]):
                connection.close()
                return
            self.open.pop(victims[0]).cancel()
        made = Connection(self, connection, allowance)
        task = self.open[made] = asyncio.get_running_loop().create_task(made.run())
        task.add_done_callback(lambda _: self.open.pop(made, None))

    def _allowance(self, address: str) -> Bucket:
        """Return how many connections an address may open before it shows a valid key."""
        now, full = time.monotonic(), float(self.bounds.unproven_burst)
        if len(self.allowances) >= MAX_ADDRESSES:
            refill_s = full / self.bounds.unproven_per_s
            self.allowances = {key: bucket for key, bucket in self.allowances.items() if now - bucket.at < refill_s}
        return self.allowances.setdefault(address, Bucket(full, now))

    def _close_idle(self) -> None:
        """Drop the connections that wait, so that their clients' next requests come by new ones."""
        for one in [one for one in self.open if one.idle]:
            self.open.pop(one).cancel()

    def close(self) -> None:
        """Drop every connection."""
        for task in self.open.values():
            task.cancel()
        self.gate.close()


class Protocol(asyncio.StreamReaderProtocol):
    """Tells a connection at once that its client is gone: what vLLM does for it is then given up."""

    connection: Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connection.transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self.connection.gone()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.gone()
        del self.connection  # ends a circle of references, which holds the 256 KiB that asyncio reads TLS into
        super().connection_lost(exc)


class Connection:
    """One client's connection. `known`: a valid key was shown on it; `idle`: it waits for a request."""

    def __init__(self, server: GuardServer, sock: socket.socket, allowance: Bucket) -> None:
        self.server, self.gate, self.bounds = server, server.gate, server.bounds
        self.sock, self.allowance, self.transport = sock, allowance, cast("asyncio.Transport | None", None)
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self.known, self.idle, self.asks_vllm, self.expects = False, False, False, False
        self.tls, self.certified_until = server.tls, 0.0

    @property
    def is_stale(self) -> bool:
        """Whether others are asked for a certificate by now than when this connection was made."""
        return self.tls is not self.server.tls

    def gone(self) -> None:
        if self.asks_vllm and (task := self.server.open.get(self)):
            task.cancel()

    async def run(self) -> None:
        """Shake hands and serve requests until one side ends it."""
        loop, tls = asyncio.get_running_loop(), self.tls
        self.reader = asyncio.StreamReader(READ_BYTES)
        protocol = Protocol(self.reader)
        protocol.connection = self
        handshake_s, shutdown_s = (self.bounds.handshake_s, self.bounds.shutdown_s) if tls else (None, None)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, self.sock, ssl=tls, ssl_handshake_timeout=handshake_s, ssl_shutdown_timeout=shutdown_s
            )
            if certificate := transport.get_extra_info("peercert"):  # verified, or there were no connection
                self.certified_until = ssl.cert_time_to_seconds(certificate["notAfter"])
            self.writer = asyncio.StreamWriter(transport, protocol, self.reader, loop)
            while await self._serve_one():
                self.http.start_next_cycle()
            transport.close()
            async with asyncio.timeout(self.bounds.shutdown_s):
                await self.writer.wait_closed()
        except (OSError, h11.ProtocolError):  # includes what a handshake fails at, and deadlines
            pass
        finally:
            # asyncio has the socket: closed by us, its number would be that of the next connection, which is then deaf
            if self.transport is not None:
                self.transport.abort()
            for name in ("reader", "writer"):  # they keep the error of a broken connection, and it keeps this frame
                vars(self).pop(name, None)

    async def _serve_one(self) -> bool:
        """Serve a request; return whether another may follow on this connection."""
        request = None
        try:
            head = await self._head()
            if head is None or self.is_stale:
                return False
            method, target = head.method.decode("latin-1"), head.target.decode("latin-1")
            request = Request(method, target.partition("?")[0], list(head.headers), self.certified_until)
            await self._answer(request)
        except Refusal as refusal:
            await self._send(request, refused(refusal))
        except h11.RemoteProtocolError as error:
            if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                raise
            status = error.error_status_hint if error.error_status_hint == 431 else 400
            await self._send(request, refused(Refusal(status, "this is no HTTP that is understood here")))
        return await self._drain()

    async def _head(self) -> h11.Request | None:
        """Return a request's header; None where the client has left, or sends none within the time that it has."""
        event = self.http.next_event()
        if event is h11.NEED_DATA and not self.http.trailing_data[0]:
            self.idle = True
            async with asyncio.timeout(self.bounds.idle_s if self.known else self.bounds.header_s):
                self.http.receive_data(await self.reader.read(READ_BYTES))
            self.idle = False
            event = self.http.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout(self.bounds.header_s):
                event = await self._event()
        if not isinstance(event, h11.Request):
            return None
        names = [name for name, _ in event.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise h11.RemoteProtocolError("two lengths")
        return event

    async def _event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(READ_BYTES))
        return event

    async def _answer(self, request: Request) -> None:
        self.known = False
        self.gate.admit(request)
        self.known = request.key is not None
        if self.known:
            self.allowance.left = self.bounds.unproven_burst
        declared = request.values(b"content-length")
        size = int(declared[0][:20]) if declared else 0
        most = self.gate.max_bytes(request)
        if size > most:
            raise _too_large(most)
        with self.gate.room_for(most if request.values(b"transfer-encoding") else size):
            try:
                async with asyncio.timeout(self.bounds.body_s):
                    body = await self._body(most)
            except TimeoutError:
                raise Refusal(408, f"the body did not come within {self.bounds.body_s:g} s") from None
            self.asks_vllm = True
            try:
                async with self.gate.answer(request, body) as reply:
                    await self._send(request, reply)
            finally:
                self.asks_vllm = False

    async def _body(self, most: int) -> bytes:
        if self.http.they_are_waiting_for_100_continue:
            await self._write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > most:
                raise _too_large(most)
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError
        return bytes(body)

    async def _send(self, request: Request | None, reply: Reply) -> None:
        """Send an answer within the time that it may take, and record that it was given."""
        headers = list(reply.headers)
        self.expects = self.http.they_are_waiting_for_100_continue
        if self.expects or self.http.their_state is h11.ERROR or self.is_stale:
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
        """Read what is left of a refused request, within bounds, so that the answer is read before the connection ends.

        Return whether all of it came, and another request may follow.
        """
        budget = self.bounds.drain_bytes if self.known else self.bounds.drain_bytes_unknown
        states = (h11.SEND_BODY, h11.ERROR)
        with suppress(TimeoutError, h11.RemoteProtocolError):
            async with asyncio.timeout(self.bounds.drain_s):
                while self.http.their_state in states and budget > 0 and not self.expects:
                    async with asyncio.timeout(self.bounds.quiet_s):
                        if self.http.their_state is h11.ERROR:
                            size = len(await self.reader.read(READ_BYTES))
                        else:
                            event = await self._event()
                            size = len(event.data) if isinstance(event, h11.Data) else 0
                    if not size:
                        break
                    budget -= size
        return self.http.our_state is self.http.their_state is h11.DONE


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most} bytes")
