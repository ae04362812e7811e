"""A reranker process for the tests of the gateway: the emulator's stub behind the real guard and real TLS. Files in its
folder change its answers: `status` (this status), `answer` (this body), `check_fails`. So do the words `answer after
1.5 s` in a request, since the guard forwards no headers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import threading
from pathlib import Path

from components.vllm.catalog import load_catalog
from emulator.scoring import Served
from emulator.stub import Stub
from harness.guard import guarded

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DELAY = re.compile(rb"answer after ([\d.]+) s")
READINESS = load_catalog().model(MODEL).readiness


class Switches:
    """ASGI middleware between guard and stub."""

    def __init__(self, app, folder):
        self.app = app
        self.folder = folder

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = self.folder.name
        with contextlib.suppress(FileNotFoundError, ValueError):
            status = int((self.folder / "status").read_text())
            await receive()
            await send({"type": "http.response.start", "status": status, "headers": [(b"x-upstream", name.encode())]})
            await send({"type": "http.response.body", "body": b"switched"})
            return
        with contextlib.suppress(FileNotFoundError):
            body = (self.folder / "answer").read_bytes()
            await receive()
            headers = [(b"x-upstream", name.encode()), (b"content-length", b"%d" % len(body))]  # as vLLM's answers have
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        body = b"".join([message.get("body", b"") async for message in messages(receive)])
        if (self.folder / "check_fails").exists() and READINESS.irrelevant.encode() in body:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"busy"})
            return
        receive = make_receive(body)
        if delay := DELAY.search(body):
            await asyncio.sleep(float(delay[1]))

        async def send_with_name(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-upstream", name.encode())]}
            await send(message)

        await self.app(scope, receive, send_with_name)


async def messages(receive):
    """Yield the messages of a request's body."""
    while True:
        message = await receive()
        yield message
        if not message.get("more_body"):
            return


def make_receive(body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def main():
    folder, port, key = Path(sys.argv[1]), int(sys.argv[2]), (Path(sys.argv[1]) / "key").read_text()
    app = Switches(Stub(Served((MODEL,))), folder)
    identity = (folder / "cert.pem").read_text(), (folder / "key.pem").read_text()
    with guarded(app, key, identity=identity, port=port) as guard, (folder / "log").open("a", buffering=1) as log:
        guard.server.gate.log = lambda line: log.write(f"{line}\n")
        guard.server.gate.admit = record_requests(guard.server.gate.admit, folder)
        threading.Event().wait()


def record_requests(admit, folder):
    """Write each request of the gateway to a file; behind the guard its headers are no longer available."""

    def admit_and_record(request):
        headers = {name.decode(): value.decode() for name, value in request.headers}
        with (folder / "requests.jsonl").open("a") as file:
            file.write(json.dumps({"path": request.path, "headers": headers}) + "\n")
        admit(request)

    return admit_and_record


if __name__ == "__main__":
    main()
