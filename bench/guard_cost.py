"""The guard's own CPU time for a request, without a server: what no other load on this machine can hide. For `bench`.

Throughput against a server says what users feel, and is only as steady as the machine; this is the cause alone.
"""

from __future__ import annotations

import json
import time
from typing import Any

from components.vllm.guard import Guard

KEY = "k" * 43
REPEATS, BATCHES = 200, 5


def cpu_ms(pairs: int, words: int) -> tuple[float, int]:
    """Return CPU milliseconds for a request of `pairs` documents of `words` words (best of batches), and its bytes."""
    text = " ".join(["learning"] * words)
    body = json.dumps({"model": "m", "query": "what is learning?", "documents": [text] * pairs}).encode()
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/rerank", "raw_path": b"/rerank", "headers": headers}
    return min(_batch(Guard(_nothing, {}, [KEY]), scope, body) for _ in range(BATCHES)), len(body)


def _batch(guard: Guard, scope: dict[str, Any], body: bytes) -> float:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        raise AssertionError(f"refused: {message}")

    start = time.process_time()
    for _ in range(REPEATS):
        try:
            guard(scope, receive, send).send(None)
        except StopIteration:
            continue
    return (time.process_time() - start) * 1000 / REPEATS


async def _nothing(_scope: Any, receive: Any, _send: Any) -> None:
    """Take the request, as a server would."""
    await receive()
