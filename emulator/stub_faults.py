"""Faults of a running server: an ASGI middleware around the stub. Used by `stub_server`.

The fault is read from a file at each request, so it can change while the server runs.
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
    """The active fault: its kind ("" for none) and its parameters.

    `route` limits the fault to one path. `queue` limits slow_answer to requests that arrive during another request.
    """

    kind: str = ""
    route: str = ""
    seconds: float = 30.0
    queue: bool = False
    every_s: float = 1.0
    mb: int = 300
    location: str = "http://127.0.0.1:9/elsewhere"
    # fields of the rule, not used here
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
    """A request to the application. `busy`: another request was running when it arrived."""

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
        """Return the application's answer: the start message and the complete body."""
        messages: list[Message] = []

        async def record(message: Message) -> None:
            messages.append(message)

        await self.app(self.scope, self.receive, record)
        return messages[0], b"".join(message.get("body", b"") for message in messages[1:])

    async def start(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, part: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": part, "more_body": more})

    async def until_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Faulty:
    """ASGI middleware that applies the active fault to requests."""

    def __init__(self, app: App, read: Callable[[], ServerFault]) -> None:
        self.app = app
        self.read = read
        self.under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        fault = self.read()
        handle = HANDLERS.get(fault.kind) if fault.route in ("", scope.get("path")) else None
        call = Call(self.app, scope, receive, send, fault, self.read, self.under_way > 0)
        scope["under_way"] = self.under_way  # without this request; for the metrics of the stub
        self.under_way += 1
        try:
            await (handle(call) if handle and scope["type"] == "http" else call.proceed())
        finally:
            self.under_way -= 1


async def _frozen(call: Call) -> None:
    while call.read().kind == "frozen":
        await asyncio.sleep(POLL_S)
    await call.proceed()


async def _slow(call: Call) -> None:
    if call.busy or not call.fault.queue:
        await asyncio.sleep(call.fault.seconds)
    await call.proceed()


async def _drip(call: Call) -> None:
    start, body = await call.answer()
    await call.send(start)
    disconnect = asyncio.create_task(call.until_disconnect())
    for byte in body:
        await call.body(bytes([byte]))
        if (await asyncio.wait({disconnect}, timeout=call.fault.every_s))[0]:
            return
    disconnect.cancel()
    await call.body(b"", more=False)


async def _huge(call: Call) -> None:
    await _send_large(call, lambda part: part)


async def _gzip_bomb(call: Call) -> None:
    packer = zlib.compressobj(wbits=31)
    await _send_large(call, packer.compress, (b"content-encoding", b"gzip"), end=packer.flush)


async def _send_large(
    call: Call, pack: Callable[[bytes], bytes], *headers: tuple[bytes, bytes], end: Callable[[], bytes] = bytes
) -> None:
    await call.answer()  # reads the request
    disconnect = asyncio.create_task(call.until_disconnect())
    await call.start(200, (b"content-type", b"application/json"), *headers)
    for _ in range(call.fault.mb):
        await call.body(pack(b" " * MB))
        await asyncio.sleep(0)
        if disconnect.done():
            return
    disconnect.cancel()
    await call.body(pack(b"{}") + end(), more=False)


async def _redirect(call: Call) -> None:
    await call.start(307, (b"location", call.fault.location.encode()), (b"content-length", b"0"))
    await call.body(b"", more=False)


async def _cut(call: Call) -> None:
    start, body = await call.answer()
    await call.send(start)
    await call.body(body[: len(body) // 2])  # uvicorn then closes the connection


def _change_scores(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Call], Awaitable[None]]:
    """Return a handler that applies `change` to the scored items of an answer."""

    async def handle(call: Call) -> None:
        start, body = await call.answer()
        answer = json.loads(body) if start["status"] == 200 and body[:1] == b"{" else {}
        items = answer.get("results") or answer.get("data") or []
        if items and {"relevance_score", "score"} & items[0].keys():
            change(items)
            body = json.dumps(answer, separators=(",", ":")).encode()
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await call.start(start["status"], *headers, (b"content-length", str(len(body)).encode()))
        await call.body(body, more=False)

    return handle


def _set_scores(value: float | None) -> Callable[[list[dict[str, Any]]], object]:
    def change(items: list[dict[str, Any]]) -> None:
        for item in items:
            item["relevance_score" if "relevance_score" in item else "score"] = value

    return change


HANDLERS: dict[str, Callable[[Call], Awaitable[None]]] = {
    "frozen": _frozen,
    "hang_after_request": Call.until_disconnect,
    "slow_answer": _slow,
    "drip": _drip,
    "huge_answer": _huge,
    "gzip_bomb": _gzip_bomb,
    "redirect": _redirect,
    "cut_answer": _cut,
    "nan_scores": _change_scores(_set_scores(float("nan"))),
    "null_scores": _change_scores(_set_scores(None)),
    "wrong_order": _change_scores(list.reverse),
}
