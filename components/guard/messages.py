"""HTTP/1.1 messages as they arrive on a connection, parsed with httptools, the parser of vLLM's own server.

The base of `connection` (requests of a client) and `upstream` (answers of vLLM).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httptools

# The bytes of one call of the parser, and the limit of bytes without progress: in a header, in a chunk's extension, in
# trailers. Together less than 32 KiB.
PARSED_BYTES = 15 << 10
MAX_PENDING_BYTES = 16 << 10
MAX_HELD_BYTES = 64 << 10  # above it, reading pauses until the body is taken
MAX_HEADERS = 256
MAX_MESSAGES = 16  # of one call of the parser: requests that a client sends without waiting for an answer
LOST = "the other side closed the connection"
Headers = list[tuple[bytes, bytes]]


@dataclass(eq=False)
class Message:
    """A request or a response, as far as it has arrived. `parts`: the part of the body that was not taken yet.
    `waits_for_100`: its sender sends no body before it gets a status 100."""

    method: str = ""
    target: bytes = b""
    version: str = ""
    status: int = 0
    headers: Headers = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    has_head: bool = False
    is_complete: bool = False
    keeps_alive: bool = False
    waits_for_100: bool = False

    @property
    def first_line(self) -> bytes:
        return b"%s %s HTTP/%s" % (self.method.encode("latin-1"), self.target, self.version.encode("latin-1"))

    def values(self, name: bytes) -> list[bytes]:
        return [value for header, value in self.headers if header == name]


class MessageStream(asyncio.Protocol):
    """A connection. One task at a time waits for its messages, and uses each until `finish_message`."""

    parser: httptools.HttpRequestParser | httptools.HttpResponseParser
    transport: asyncio.Transport | None = None

    def __init__(self) -> None:
        self.messages = deque[Message]()
        self.received_bytes = 0
        self.is_ended = self.is_lost = self.is_invalid = self.is_too_long = False
        self._pending_bytes = self._held_bytes = 0
        self._unparsed = b""
        self._is_paused = False
        self._change: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    def invalid(self) -> Exception:
        """Return the error for bytes that are no message, or if `is_too_long`."""
        raise NotImplementedError

    def header_without_upgrade(self) -> bytes:
        """Return the header that is parsed in place of the last one, which asks for another protocol."""
        self.is_invalid = True
        return b""

    async def head(self) -> Message:
        """Wait for the next message's header. Raises OSError if the connection ends, and the error of `invalid`."""
        while not (self.messages and self.messages[0].has_head):
            await self.arrival()
        return self.messages[0]

    async def part(self, message: Message) -> bytes:
        """Wait for a part of the body and return it; b"" at its end. Raises like `head`."""
        while not message.parts and not message.is_complete:
            await self.arrival()
        return self.take(message)

    def take(self, message: Message) -> bytes:
        """Return the part of the body that has arrived."""
        body = b"".join(message.parts)
        message.parts.clear()
        self._held_bytes -= len(body)
        self._parse()
        return body

    def finish_message(self) -> None:
        self.take(self.messages[0])
        self.messages.popleft()
        self._parse()

    async def arrival(self) -> None:
        """Wait for more bytes. Raises like `head`."""
        if self.is_invalid:
            raise self.invalid()
        if self.is_ended:
            raise ConnectionResetError(LOST)
        await self.change()

    async def change(self) -> None:
        """Wait until bytes arrive or the connection ends."""
        self._change = asyncio.get_running_loop().create_future()
        await self._change

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while the other side does not read them. Raises OSError."""
        if self.transport is not None and not self.is_lost:
            self.transport.write(data)
            if self._writable is not None:
                await self._writable
        if self.is_lost:
            raise ConnectionResetError(LOST)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._unparsed += data
        self._parse()
        self._wake()

    def eof_received(self) -> None:
        self.is_ended = True
        self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_ended = self.is_lost = True
        vars(self).pop("parser", None)  # it refers to this object, which refers to it
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def _parse(self) -> None:
        """Parse what has arrived, up to the end of the first message."""
        while self._unparsed and not self._has_enough():
            chunk, self._unparsed = self._unparsed[:PARSED_BYTES], self._unparsed[PARSED_BYTES:]
            self._pending_bytes += len(chunk)
            try:
                self.parser.feed_data(chunk)
            except httptools.HttpParserUpgrade as upgrade:
                self._unparsed = self.header_without_upgrade() + chunk[upgrade.args[0] :] + self._unparsed
            except httptools.HttpParserError:
                self.is_invalid = True
            if self._pending_bytes > MAX_PENDING_BYTES:
                self.is_invalid = self.is_too_long = True
        if self.is_invalid:
            self._unparsed = b""
        self._pause_or_resume()

    def _has_enough(self) -> bool:
        is_complete = bool(self.messages) and self.messages[0].is_complete
        return is_complete or self._held_bytes > MAX_HELD_BYTES or self.is_invalid or self.is_lost

    def _pause_or_resume(self) -> None:
        has_too_much = self._held_bytes + len(self._unparsed) > MAX_HELD_BYTES
        if has_too_much is not self._is_paused and self.transport is not None and not self.is_ended:
            self._is_paused = has_too_much
            (self.transport.pause_reading if has_too_much else self.transport.resume_reading)()

    # called by the parser

    def on_message_begin(self) -> None:
        if len(self.messages) == MAX_MESSAGES:
            raise OverflowError  # the parser ends with an error
        self.messages.append(Message())

    def on_header(self, name: bytes, value: bytes) -> None:
        message = self.messages[-1]
        if message.has_head:  # trailers are dropped
            return
        if len(message.headers) == MAX_HEADERS:
            self.is_too_long = True
            raise OverflowError  # the parser ends with an error
        message.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        message = self.messages[-1]
        message.has_head, message.keeps_alive = True, self.parser.should_keep_alive()
        self._pending_bytes = 0

    def on_body(self, part: bytes) -> None:
        self.messages[-1].parts.append(part)
        self._held_bytes += len(part)
        self._pending_bytes = 0

    def on_message_complete(self) -> None:
        self.messages[-1].is_complete = True
        self._pending_bytes = 0


def header_bytes(first_line: bytes, headers: Headers) -> bytes:
    return b"\r\n".join([first_line, *(b"%s: %s" % header for header in headers), b"", b""])
