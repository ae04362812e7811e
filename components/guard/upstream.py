"""vLLM at its unix socket: a pool of connections, and routes and fields from /openapi.json. Used by `gate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11

from .rules import Refusal

READ_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 16
MAX_IDLE = 64
ANSWER_S = 600.0
POLL_S = 0.1
STARTING = "vLLM is starting or has exited"
METHODS = ("get", "post", "put", "delete", "patch", "head")
HOP_BY_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer")
Headers = list[tuple[bytes, bytes]]


class VllmConnection:
    """An HTTP connection to vLLM."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def next_event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(READ_BYTES))
        return event

    async def request(self, method: str, path: str, headers: Headers, body: bytes) -> h11.Response:
        """Send a request and return the head of the response. Raises OSError or h11.RemoteProtocolError."""
        framed = [(b"host", b"vllm"), *headers, *([(b"content-length", b"%d" % len(body))] if body else [])]
        data = self.http.send(h11.Request(method=method, target=path, headers=framed)) or b""
        data += (self.http.send(h11.Data(data=body)) or b"") if body else b""
        self.writer.write(data + (self.http.send(h11.EndOfMessage()) or b""))
        await self.writer.drain()
        while not isinstance(event := await self.next_event(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("vLLM closed the connection")
        return event


@dataclass
class VllmAnswer:
    """An answer of vLLM, with its body as a stream."""

    status: int
    headers: Headers
    connection: VllmConnection = field(repr=False)

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises OSError or h11.RemoteProtocolError if the connection breaks."""
        while not isinstance(event := await self.connection.next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise ConnectionResetError("vLLM closed the connection")
            yield bytes(event.data)


class VllmUpstream:
    """vLLM at a unix socket. `fields`: the fields of a rerank request. `routes`: path and methods of each route."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.is_up = False
        self.fields: frozenset[str] = frozenset()
        self.routes: list[list[Any]] = []
        self._idle: list[VllmConnection] = []

    @asynccontextmanager
    async def ask(self, method: str, path: str, headers: Headers = [], body: bytes = b"") -> AsyncIterator[VllmAnswer]:  # noqa: B006
        """Send a request. The connection is reused after a completely read answer. Raises Refusal without an answer."""
        connection, response = await self._send(method, path, headers, body)
        try:
            end_to_end = [(name, value) for name, value in response.headers if name not in HOP_BY_HOP]
            yield VllmAnswer(response.status_code, end_to_end, connection)
            http = connection.http
            if http.our_state is http.their_state is h11.DONE and len(self._idle) < MAX_IDLE:
                http.start_next_cycle()
                self._idle.append(connection)
        finally:
            if connection not in self._idle:
                connection.writer.close()

    async def _send(self, method: str, path: str, headers: Headers, body: bytes) -> tuple[VllmConnection, h11.Response]:
        while True:
            pooled = self._idle.pop() if self._idle else None
            try:
                connection = pooled or VllmConnection(*await asyncio.open_unix_connection(self.socket_path))
            except OSError:
                raise Refusal(503, STARTING, 2) from None
            try:
                async with asyncio.timeout(ANSWER_S):
                    return connection, await connection.request(method, path, headers, body)
            except TimeoutError:
                connection.writer.close()
                raise Refusal(504, f"vLLM did not answer within {ANSWER_S:g} s") from None
            except (OSError, h11.RemoteProtocolError):
                connection.writer.close()
                if pooled is None:  # vLLM may have closed a pooled one; a retry is safe: scoring is idempotent
                    raise Refusal(502, "vLLM closed the connection without an answer") from None
            except BaseException:
                connection.writer.close()
                raise

    async def learn(self) -> None:
        """Wait until vLLM answers, and read its routes and fields from /openapi.json."""
        while True:
            try:
                async with self.ask("GET", "/openapi.json") as answer:
                    parts = [part async for part in answer.parts()] if answer.status == 200 else [b"{}"]
                    openapi = json.loads(b"".join(parts))
                break
            except (Refusal, OSError, ValueError, h11.RemoteProtocolError):
                await asyncio.sleep(POLL_S)
        schemas = openapi.get("components", {}).get("schemas", {})
        self.fields = frozenset(schemas.get("RerankRequest", {}).get("properties", ()))
        paths = openapi.get("paths", {}).items()
        self.routes = [[path, sorted(name.upper() for name in METHODS if name in keys)] for path, keys in paths]
        self.is_up = True
