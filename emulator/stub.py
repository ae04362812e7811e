"""A stand-in for vLLM in a container: `python -m emulator.stub MODEL --port N ...`, an ASGI server without weights.

Takes vLLM's flags for address, TLS and middleware, and refuses unknown ones as vLLM does; started by the shim that the
stub runtime puts on a container's PATH.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from emulator.scoring import respond

# Flags with a value that a launch may carry and that change nothing here.
VALUED = (
    "--max-model-len", "--dtype", "--hf-overrides", "--chat-template", "--runner", "--convert", "--max-num-seqs",
    "--revision", "--max-num-batched-tokens", "--gpu-memory-utilization", "--tensor-parallel-size",
    "--api-server-count", "--override-pooler-config",
)  # fmt: skip

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Stub:
    """The ASGI application."""

    def __init__(self, model: str, root: str) -> None:
        self.model = model
        self.root = root
        self.key = os.environ.get("VLLM_API_KEY")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if self._locked(scope):
            status, answer = 401, {"error": "Unauthorized"}
        else:
            status, answer = respond(scope["method"], scope["path"], body, self.model, self.root)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        kind = b"text/plain" if isinstance(answer, str) else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", str(len(text.encode())).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    def _locked(self, scope: Scope) -> bool:
        """vLLM's own key covers /v1 and /v2 only."""
        if not self.key or not scope["path"].startswith(("/v1", "/v2")):
            return False
        return dict(scope["headers"]).get(b"authorization") != f"Bearer {self.key}".encode()


def parser() -> argparse.ArgumentParser:
    """Return a parser of the flags of vLLM that this project's launches use."""
    flags = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    flags.add_argument("model")
    flags.add_argument("--root", default="")
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=8000)
    flags.add_argument("--served-model-name")
    flags.add_argument("--middleware", action="append", default=[])
    flags.add_argument("--ssl-certfile")
    flags.add_argument("--ssl-keyfile")
    for taken in VALUED:
        flags.add_argument(taken)
    for taken in ("--trust-remote-code", "--enforce-eager", "--disable-log-requests", "--no-enable-prefix-caching"):
        flags.add_argument(taken, action="store_true")
    return flags


def main() -> None:
    """Serve until killed."""
    args = parser().parse_args()
    app: Any = Stub(args.served_model_name or args.model, args.root or args.model)
    for path in args.middleware:
        module, _, name = path.rpartition(".")
        app = getattr(importlib.import_module(module), name)(app)
    sys.stdout.write(f"stub of vLLM serves {args.model} on {args.host}:{args.port}\n")
    sys.stdout.flush()
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        log_level="warning",
        access_log=False,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
    )


if __name__ == "__main__":
    main()
