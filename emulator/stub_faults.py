"""What a server that is up can do wrong with a request: an ASGI wrapper around the stub. Used by `stub_server`.

Which fault is on is read from a file for every request, so that one comes and goes while the server runs.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
POLL_S = 0.03
MB = 1 << 20


@dataclass(frozen=True)
class ServerFault:
    """The fault that is on: its kind ("" for none) and the parameters that its rule gave.

    `route` limits what is done to answers to one path, `queue` slowness to requests that meet one under way.
    """

    kind: str = ""
    route: str = ""
    seconds: float = 30.0
    queue: bool = False
    every_s: float = 1.0
    mb: int = 300
    location: str = "http://127.0.0.1:9/elsewhere"
    # how the rule came to be on, of no meaning here
    rule: int = 0
    after_s: float = 0.0
    chance: float = 1.0

    @classmethod
    def read(cls, file: Path | None) -> ServerFault:
        try:
            return cls(**json.loads(file.read_text())) if file else cls()
        except FileNotFoundError:
            return cls()


@dataclass(frozen=True)
class Call:
    """A request on its way to the application, and whether another was under way when it came."""

    app: App
    scope: Message
    receive: Receive
    send: Send
    fault: ServerFault
    read: Callable[[], ServerFault]
    busy: bool

    async def proceed(self) -> None:
        await self.app(self.scope, self.receive, self.send)

    async def answer(self) -> tuple[Message, bytes]:
        """Return what the application would answer: the start, and the whole body."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.app(self.scope, self.receive, keep)
        return sent[0], b"".join(message.get("body", b"") for message in sent[1:])

    async def start(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, part: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": part, "more_body": more})

    async def until_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Faulty:
    """ASGI middleware that does with a request what the fault says that is on."""

    def __init__(self, app: App, read: Callable[[], ServerFault]) -> None:
        self.app = app
        self.read = read
        self.under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        fault = self.read()
        handle = HANDLERS.get(fault.kind) if fault.route in ("", scope.get("path")) else None
        call = Call(self.app, scope, receive, send, fault, self.read, self.under_way > 0)
        scope["under_way"] = self.under_way  # before this one, for the stub's metrics
        self.under_way += 1
        try:
            await (handle(call) if handle and scope["type"] == "http" else call.proceed())
        finally:
            self.under_way -= 1


async def _frozen(call: Call) -> None:
    while call.read().kind == "frozen":
        await asyncio.sleep(POLL_S)
    await call.proceed()


async def _hang(call: Call) -> None:
    await call.until_disconnect()


async def _slow(call: Call) -> None:
    if call.busy or not call.fault.queue:
        await asyncio.sleep(call.fault.seconds)
    await call.proceed()


async def _drip(call: Call) -> None:
    start, body = await call.answer()
    await call.send(start)
    gone = asyncio.create_task(call.until_disconnect())
    for byte in body:
        await call.body(bytes([byte]))
        if (await asyncio.wait({gone}, timeout=call.fault.every_s))[0]:
            return
    gone.cancel()
    await call.body(b"", more=False)


async def _huge(call: Call) -> None:
    await _pour(call, lambda part: part)


async def _gzip_bomb(call: Call) -> None:
    packer = zlib.compressobj(wbits=31)
    await _pour(call, packer.compress, (b"content-encoding", b"gzip"), end=packer.flush)


async def _pour(
    call: Call, pack: Callable[[bytes], bytes], *headers: tuple[bytes, bytes], end: Callable[[], bytes] = bytes
) -> None:
    await call.answer()  # the request is read
    gone = asyncio.create_task(call.until_disconnect())
    await call.start(200, (b"content-type", b"application/json"), *headers)
    for _ in range(call.fault.mb):
        await call.body(pack(b" " * MB))
        await asyncio.sleep(0)
        if gone.done():
            return
    gone.cancel()
    await call.body(pack(b"{}") + end(), more=False)


async def _redirect(call: Call) -> None:
    await call.start(307, (b"location", call.fault.location.encode()), (b"content-length", b"0"))
    await call.body(b"", more=False)


async def _cut(call: Call) -> None:
    start, body = await call.answer()
    await call.send(start)
    await call.body(body[: len(body) // 2])  # the server closes the connection of an application that ends like this


def _changed(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Call], Awaitable[None]]:
    """Return a handler that changes the scored items of an answer."""

    async def handle(call: Call) -> None:
        start, body = await call.answer()
        answer = json.loads(body) if start["status"] == 200 and body[:1] == b"{" else {}
        items = answer.get("results") or answer.get("data") or []
        if items and {"relevance_score", "score"} & items[0].keys():
            change(items)
            body = json.dumps(answer, separators=(",", ":")).encode()
        kept = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await call.start(start["status"], *kept, (b"content-length", str(len(body)).encode()))
        await call.body(body, more=False)

    return handle


def _scores(value: float | None) -> Callable[[list[dict[str, Any]]], object]:
    def change(items: list[dict[str, Any]]) -> None:
        for item in items:
            item["relevance_score" if "relevance_score" in item else "score"] = value

    return change


HANDLERS: dict[str, Callable[[Call], Awaitable[None]]] = {
    "frozen": _frozen,
    "hang_after_request": _hang,
    "slow_answer": _slow,
    "drip": _drip,
    "huge_answer": _huge,
    "gzip_bomb": _gzip_bomb,
    "redirect": _redirect,
    "cut_answer": _cut,
    "nan_scores": _changed(_scores(float("nan"))),
    "null_scores": _changed(_scores(None)),
    "wrong_order": _changed(list.reverse),
}
