"""vLLM behind its unix socket: kept connections, and what its /openapi.json says that it has. Used by `gate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11

from .rules import Refusal

READ_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 16
MAX_KEPT = 64
ANSWER_S = 600.0
POLL_S = 0.1
STARTING = "vLLM is starting, or has ended"
HOP_BY_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer")
Headers = list[tuple[bytes, bytes]]


class Line:
    """A connection to vLLM."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(READ_BYTES))
        return event

    async def request(self, method: str, path: str, headers: Headers, body: bytes) -> h11.Response:
        """Send a request, return the start of its answer. Raises OSError or h11.RemoteProtocolError."""
        framed = [(b"host", b"vllm"), *headers, *([(b"content-length", b"%d" % len(body))] if body else [])]
        data = self.http.send(h11.Request(method=method, target=path, headers=framed)) or b""
        data += (self.http.send(h11.Data(data=body)) or b"") if body else b""
        self.writer.write(data + (self.http.send(h11.EndOfMessage()) or b""))
        await self.writer.drain()
        while not isinstance(event := await self.event(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("vLLM closed the connection")
        return event


@dataclass
class VllmAnswer:
    """An answer of vLLM's as it comes."""

    status: int
    headers: Headers
    line: Line = field(repr=False)

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises OSError or h11.RemoteProtocolError where it breaks off."""
        while not isinstance(event := await self.line.event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise ConnectionResetError("vLLM closed the connection")
            yield bytes(event.data)

    async def read(self) -> bytes:
        return b"".join([part async for part in self.parts()])


class VllmUpstream:
    """vLLM at a unix socket. `fields`: of its scoring requests; `routes`: path and methods of those it registers."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.is_up = False
        self.fields: frozenset[str] = frozenset()
        self.routes: list[list[Any]] = []
        self._kept: list[Line] = []

    @asynccontextmanager
    async def ask(self, method: str, path: str, headers: Headers = [], body: bytes = b"") -> AsyncIterator[VllmAnswer]:  # noqa: B006
        """Ask vLLM; the connection is kept if the answer was read to its end. Raises Refusal where there is none."""
        line, response = await self._answered(method, path, headers, body)
        try:
            passed = [(name, value) for name, value in response.headers if name not in HOP_BY_HOP]
            yield VllmAnswer(response.status_code, passed, line)
            if line.http.our_state is line.http.their_state is h11.DONE and len(self._kept) < MAX_KEPT:
                line.http.start_next_cycle()
                self._kept.append(line)
        finally:
            if line not in self._kept:
                line.writer.close()

    async def _answered(self, method: str, path: str, headers: Headers, body: bytes) -> tuple[Line, h11.Response]:
        while True:
            kept = bool(self._kept)
            try:
                line = self._kept.pop() if kept else Line(*await asyncio.open_unix_connection(self.socket_path))
            except OSError:
                raise Refusal(503, STARTING, 2) from None
            try:
                async with asyncio.timeout(ANSWER_S):
                    return line, await line.request(method, path, headers, body)
            except TimeoutError:
                line.writer.close()
                raise Refusal(504, f"vLLM did not answer within {ANSWER_S:g} s") from None
            except (OSError, h11.RemoteProtocolError):
                line.writer.close()
                if not kept:  # one that was kept may have been closed meanwhile; scoring twice is harmless
                    raise Refusal(502, "vLLM closed the connection without an answer") from None
            except BaseException:
                line.writer.close()
                raise

    async def learn(self) -> None:
        """Wait until vLLM answers, and read what it has from its own description."""
        while True:
            try:
                async with self.ask("GET", "/openapi.json") as answer:
                    described = json.loads(await answer.read()) if answer.status == 200 else {}
                break
            except (Refusal, OSError, ValueError, h11.RemoteProtocolError):
                await asyncio.sleep(POLL_S)
        schemas = described.get("components", {}).get("schemas", {})
        self.fields = frozenset(schemas.get("RerankRequest", {}).get("properties", ()))
        self.routes = [[path, _methods(found)] for path, found in described.get("paths", {}).items()]
        self.is_up = True


def _methods(found: Iterable[str]) -> list[str]:
    return sorted(method.upper() for method in found if method in ("get", "post", "put", "delete", "patch", "head"))
