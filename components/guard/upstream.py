"""vLLM at its unix socket: a pool of connections, and routes and fields from /openapi.json. Used by `gate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httptools

from .messages import Headers, Message, MessageStream, header_bytes
from .rules import Refusal

MAX_IDLE = 64
ANSWER_S = 600.0
POLL_S = 0.1
STARTING = "vLLM is starting or has exited"
METHODS = ("get", "post", "put", "delete", "patch", "head")
HOP_BY_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer")


class VllmConnection(MessageStream):
    """An HTTP connection to vLLM."""

    parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        super().__init__()
        self.parser = httptools.HttpResponseParser(self)

    async def request(self, method: str, path: str, headers: Headers, body: bytes) -> Message:
        """Send a request and return the response with its header. Raises OSError."""
        framed = [(b"host", b"vllm"), *headers, *([(b"content-length", b"%d" % len(body))] if body else [])]
        await self.write(header_bytes(f"{method} {path} HTTP/1.1".encode("latin-1"), framed) + body)
        return await self.head()

    def invalid(self) -> ConnectionResetError:
        return ConnectionResetError("the response is not valid HTTP/1.1, or its header is too long")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.messages[-1].status = self.parser.get_status_code()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.messages[-1].status < 200:  # informational; the response follows
            self.messages.pop()


@dataclass
class VllmAnswer:
    """An answer of vLLM, with its body as a stream."""

    status: int
    headers: Headers
    message: Message = field(repr=False)
    connection: VllmConnection = field(repr=False)

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises OSError if the connection breaks."""
        while part := await self.connection.part(self.message):
            yield part


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
        connection, message = await self._send(method, path, headers, body)
        try:
            end_to_end = [(name, value) for name, value in message.headers if name not in HOP_BY_HOP]
            yield VllmAnswer(message.status, end_to_end, message, connection)
            if message.is_complete and not message.parts:
                connection.finish_message()
                is_usable = message.keeps_alive and not connection.is_ended and not connection.messages
                if is_usable and len(self._idle) < MAX_IDLE:
                    self._idle.append(connection)
        finally:
            if connection not in self._idle:
                connection.close()

    async def _send(self, method: str, path: str, headers: Headers, body: bytes) -> tuple[VllmConnection, Message]:
        loop = asyncio.get_running_loop()
        while True:
            pooled = self._take_idle()
            try:
                connection = pooled or (await loop.create_unix_connection(VllmConnection, self.socket_path))[1]
            except OSError:
                raise Refusal(503, STARTING, 2) from None
            try:
                async with asyncio.timeout(ANSWER_S):
                    return connection, await connection.request(method, path, headers, body)
            except TimeoutError:
                connection.close()
                raise Refusal(504, f"vLLM did not answer within {ANSWER_S:g} s") from None
            except OSError:
                connection.close()
                if pooled is None:  # vLLM may have closed a pooled one; a retry is safe: scoring is idempotent
                    raise Refusal(502, "vLLM closed the connection without an answer") from None
            except BaseException:
                connection.close()
                raise

    def _take_idle(self) -> VllmConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not (connection.is_ended or connection.is_invalid or connection.messages):
                return connection
            connection.close()  # vLLM has closed it, or sent what nobody asked for
        return None

    async def learn(self) -> None:
        """Wait until vLLM answers, and read its routes and fields from /openapi.json."""
        while True:
            try:
                async with self.ask("GET", "/openapi.json") as answer:
                    parts = [part async for part in answer.parts()] if answer.status == 200 else [b"{}"]
                    openapi = json.loads(b"".join(parts))
                break
            except (Refusal, OSError, ValueError):
                await asyncio.sleep(POLL_S)
        schemas = openapi.get("components", {}).get("schemas", {})
        self.fields = frozenset(schemas.get("RerankRequest", {}).get("properties", ()))
        paths = openapi.get("paths", {}).items()
        self.routes = [[path, sorted(name.upper() for name in METHODS if name in keys)] for path, keys in paths]
        self.is_up = True
