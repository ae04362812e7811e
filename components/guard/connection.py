"""A client's connection to the guard: TLS, its requests one after the other, and a deadline for each step.

Created by `server`; `gate` decides about each request.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

import httptools

from .gate import Gate, Reply, Request, error_reply
from .keys import Bucket, Key
from .messages import Message, MessageStream, header_bytes
from .rules import Refusal

CLOSE = (b"connection", b"close")


@dataclass(frozen=True)
class Bounds:
    """Deadlines of each step, and limits on connections.

    `drain_bytes`: the part of a refused body that the guard reads, so that the client reads the answer, within
    `drain_s`, with pauses of at most `quiet_s`; `..._without_key`: of a request without a valid key. `without_key_...`:
    the connections that an address may open at once, and per second, until one of its requests has a valid key. Its
    handshakes start at least `between_handshakes_s` apart.
    """

    handshake_s: float = 10.0
    between_handshakes_s: float = 0.005
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


@dataclass
class Allowance(Bucket):
    """The connections that an address may open without a valid key. `next_at`: when its next handshake may start."""

    next_at: float = 0.0


class Connection(MessageStream):
    """`key`: the valid key of its last request, if any. `is_idle`: it waits for a request."""

    parser: httptools.HttpRequestParser

    def __init__(self, gate: Gate, bounds: Bounds, sock: socket.socket, allowance: Allowance) -> None:
        super().__init__()
        self.parser = httptools.HttpRequestParser(self)
        self.gate, self.bounds, self.sock, self.allowance = gate, bounds, sock, allowance
        self.is_idle = self.is_last = False
        self.key: Key | None = None
        self.tls, self.certified_until = gate.tls, 0.0
        self.task_at_vllm: asyncio.Task[object] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the TLS context was replaced after this connection was opened."""
        return self.tls is not self.gate.tls

    async def run(self, delay_s: float) -> None:
        """Wait, do the TLS handshake, and serve requests until one side closes the connection."""
        try:
            await asyncio.sleep(delay_s)
        except asyncio.CancelledError:
            self.sock.close()  # asyncio does not own it yet
            raise
        loop, tls = asyncio.get_running_loop(), self.gate.tls
        self.tls = tls
        handshake_s, shutdown_s = (self.bounds.handshake_s, self.bounds.shutdown_s) if tls else (None, None)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: self, self.sock, ssl=tls, ssl_handshake_timeout=handshake_s, ssl_shutdown_timeout=shutdown_s
            )
            if certificate := transport.get_extra_info("peercert"):  # the handshake has verified it
                self.certified_until = ssl.cert_time_to_seconds(certificate["notAfter"])
            while await self._serve_request():
                self.finish_message()
            transport.close()
            async with asyncio.timeout(self.bounds.shutdown_s):
                while not self.is_lost:
                    await self.change()
        except OSError as error:  # includes failed handshakes and deadlines
            error.__traceback__ = None  # asyncio's frames in it refer to the error
        finally:
            # do not close the socket itself: asyncio still owns it, and a new connection could get the same descriptor
            if self.transport is not None:
                self.transport.abort()
            else:  # after a failed handshake asyncio does not call it
                self.connection_lost(None)
            self.transport = None  # it refers to this object

    async def _serve_request(self) -> bool:
        """Serve a request; return whether the connection can serve another one."""
        message = request = None
        try:
            message = await self._next_message()
            path = message.target.decode("latin-1").partition("?")[0]
            certified_until = 0 if self.is_stale else self.certified_until  # another client_ca may be valid now
            request = Request(message.method, path, message.headers, certified_until)
            await self._answer(message, request)
        except Refusal as refusal:
            await self._send(message, request, error_reply(refusal))
        return await self._drain(message)

    async def _next_message(self) -> Message:
        """Wait for a request's header. Raises OSError (also at a deadline) or Refusal."""
        if not self.messages:
            self.is_idle = True
            try:
                async with asyncio.timeout(self.bounds.idle_s if self.key else self.bounds.header_s):
                    await self.arrival()
            finally:
                self.is_idle = False
        if self.messages and self.messages[0].has_head:
            return self.messages[0]
        async with asyncio.timeout(self.bounds.header_s):
            return await self.head()

    async def _answer(self, message: Message, request: Request) -> None:
        self.key = None
        _check_framing(message)
        self.gate.admit(request)
        self.key = request.key
        if self.key:
            self.allowance.available, self.allowance.next_at = self.bounds.without_key_burst, 0
        declared = message.values(b"content-length")
        size = int(declared[0].lstrip(b"0") or b"0") if declared else 0  # int() refuses thousands of digits
        max_bytes = self.gate.max_bytes(request)
        if size > max_bytes:
            raise _too_large(max_bytes)
        with self.gate.room_for(max_bytes if message.values(b"transfer-encoding") else size):
            try:
                async with asyncio.timeout(None if message.is_complete else self.bounds.body_s):
                    body = await self._read_body(message, max_bytes)
            except TimeoutError:
                raise Refusal(408, f"the body did not arrive within {self.bounds.body_s:g} s") from None
            self.task_at_vllm = asyncio.current_task()
            try:
                async with self.gate.answer(request, body) as reply:
                    await self._send(message, request, reply)
            finally:
                self.task_at_vllm = None

    async def _read_body(self, message: Message, max_bytes: int) -> bytes:
        if message.waits_for_100:
            message.waits_for_100 = False
            await self.write(b"HTTP/1.1 100 \r\n\r\n")
        body = bytearray()
        while part := await self.part(message):
            body += part
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
        return bytes(body)

    async def _send(self, message: Message | None, request: Request | None, reply: Reply) -> None:
        """Send an answer within `send_s`, and record it."""
        headers = list(reply.headers)
        has_body = reply.status not in (204, 304) and (request is None or request.method != "HEAD")
        has_no_length = has_body and not any(name == b"content-length" for name, _ in headers)
        is_chunked = has_no_length and message is not None and message.version == "1.1"
        if is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        is_complete = message is not None and message.is_complete
        self.is_last = self.is_stale or message is None or not message.keeps_alive or message.waits_for_100
        self.is_last |= self.is_invalid and not is_complete
        if self.is_last:
            headers.append(CLOSE)
        data = header_bytes(b"HTTP/1.1 %d " % reply.status, headers)
        try:
            async with asyncio.timeout(self.bounds.send_s):
                async for part in reply.parts:
                    if has_body and part:
                        data += b"%x\r\n%s\r\n" % (len(part), part) if is_chunked else part
                    await self.write(data)
                    data = b""
                if is_chunked:
                    data += b"0\r\n\r\n"
                if data:
                    await self.write(data)
        finally:
            self.gate.record(request or Request("", "", []), reply.status)

    async def _drain(self, message: Message | None) -> bool:
        """Read the rest of a refused request, within limits, so that the client can read the answer before the close.

        Return whether the request is complete, and the connection can serve another one.
        """
        if message is not None and message.is_complete:
            return not self.is_last
        budget = self.bounds.drain_bytes if self.key else self.bounds.drain_bytes_without_key
        end = self.received_bytes + budget
        with suppress(TimeoutError):
            async with asyncio.timeout(self.bounds.drain_s):
                while not (message and (message.is_complete or message.waits_for_100)):
                    if message is not None and self.take(message):
                        continue  # more of it may have been parsed
                    if self.is_ended or self.received_bytes >= end:
                        break
                    async with asyncio.timeout(self.bounds.quiet_s):
                        await self.change()
        return message is not None and message.is_complete and not self.is_last

    def cancel_request(self) -> None:
        if self.task_at_vllm is not None:
            self.task_at_vllm.cancel()

    def eof_received(self) -> None:
        self.cancel_request()
        super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.cancel_request()
        super().connection_lost(error)

    def invalid(self) -> Refusal:
        return Refusal(431, "the header is too long") if self.is_too_long else _invalid()

    def header_without_upgrade(self) -> bytes:
        """Upgrade is ignored, but the parser takes a body that follows it for another protocol."""
        message = self.messages.pop()
        if message.method == "CONNECT":
            return super().header_without_upgrade()
        self.parser = httptools.HttpRequestParser(self)  # the other one reads no more after Connection: close
        headers = [header for header in message.headers if header[0] not in (b"upgrade", b"connection")]
        return header_bytes(message.first_line, [*headers, CLOSE])

    def on_url(self, part: bytes) -> None:
        self.messages[-1].target += part

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        message = self.messages[-1]
        message.method, message.version = self.parser.get_method().decode("latin-1"), self.parser.get_http_version()
        is_current = message.version == "1.1"
        message.keeps_alive &= is_current
        message.waits_for_100 = is_current and [v.lower() for v in message.values(b"expect")] == [b"100-continue"]

    def on_body(self, part: bytes) -> None:
        super().on_body(part)
        self.messages[-1].waits_for_100 = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.messages[-1].waits_for_100 = False


def _check_framing(message: Message) -> None:
    """Refuse what the parser accepts and other servers read differently: what follows is not read. Raises Refusal."""
    encodings = [value.lower() for value in message.values(b"transfer-encoding")]
    is_chunked = encodings == [b"chunked"] and message.version == "1.1"
    hosts = len(message.values(b"host"))
    has_host = hosts == 1 or (hosts == 0 and message.version == "1.0")
    if (encodings and not is_chunked) or message.version not in ("1.0", "1.1") or not has_host:
        message.keeps_alive = False
        raise _invalid()


def _invalid() -> Refusal:
    return Refusal(400, "the request is not valid HTTP/1.1")


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, f"the body is larger than {max_bytes} bytes")
