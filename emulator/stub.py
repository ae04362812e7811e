"""A stub of vLLM in a container: `python -m emulator.stub MODEL --port N ...`, an ASGI server without weights.

Accepts vLLM's flags, implements those for address, names, limits, keys, TLS and middleware, and refuses unknown flags.
Started by `vllm_shim`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import ssl
import sys
from collections.abc import Callable
from functools import partial
from inspect import isclass
from pathlib import Path
from typing import Any

from emulator.scoring import Load, Served, detect_kind, respond
from emulator.stub_faults import Message, Receive, Send, ServerFault
from emulator.stub_server import StubServer, listener, unix_listener

# The other flags of vLLM 0.32 ("=": a value, "*": several values): accepted without effect.
FLAGS = Path(__file__).with_name("vllm_flags.txt").read_text().split()
# Flags of older versions, removed in 0.32.
OLDER_FLAGS = ("--disable-log-requests", "--override-pooler-config=", "--task=", "--swap-space=")
DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")


class Stub:
    """The ASGI application."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.answered = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        load = Load(scope.get("under_way", 0), self.answered)
        status, answer = respond(scope["method"], scope["path"], body, self.served, request_headers, load=load)
        if isinstance(answer, dict) and status == 200:
            self.answered += len(answer.get("results") or answer.get("data") or ()) if scope["method"] == "POST" else 0
        text = (answer if isinstance(answer, str) else json.dumps(answer, separators=(",", ":"))).encode()
        headers = [(b"content-length", str(len(text)).encode())]
        if text:
            headers.append((b"content-type", b"text/plain" if isinstance(answer, str) else b"application/json"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def build_parser() -> argparse.ArgumentParser:
    usage = "vllm serve [model_tag] [options]"
    flags = argparse.ArgumentParser(prog="vllm serve", usage=usage, allow_abbrev=False)
    flags.add_argument("model")
    flags.add_argument("--root", default="", help=argparse.SUPPRESS)
    flags.add_argument("--fault-file", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=8000)
    flags.add_argument("--uds")
    flags.add_argument("--served-model-name", nargs="+")
    flags.add_argument("--api-key", nargs="+", default=[])
    flags.add_argument("--api-server-count", type=int, default=1)
    flags.add_argument("--max-model-len", type=parse_token_count, default=512)
    flags.add_argument("--dtype", choices=DTYPES, default="auto")
    flags.add_argument("--middleware", action="append", default=[])
    flags.add_argument("--ssl-certfile")
    flags.add_argument("--ssl-keyfile")
    for flag in (*FLAGS, *OLDER_FLAGS):  # without effect
        if flag[-1] in "=*":
            flags.add_argument(flag[:-1], nargs="*" if flag[-1] == "*" else None)
        else:
            flags.add_argument(flag, action="store_true")
    return flags


def parse_token_count(text: str) -> int:
    """Parse a number of tokens: 1k is 1000, 1K is 1024."""
    factor = {"k": 1000, "K": 1024}.get(text[-1:], 1)
    return int(float(text[:-1]) * factor) if factor > 1 else int(text)


def normalize_flags(argv: list[str]) -> list[str]:
    """Return the arguments with dashes in flag names: vLLM also accepts --max_model_len."""
    words = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        words.append(name.replace("_", "-") + equals + value if arg.startswith("--") else arg)
    return words


def main() -> None:
    args = build_parser().parse_args(normalize_flags(sys.argv[1:]))
    keys = tuple(args.api_key) or tuple(filter(None, [os.environ.get("VLLM_API_KEY")]))
    names = tuple(args.served_model_name or [args.model])
    kind = detect_kind(args.model, args.root, args.chat_template)
    app: Any = Stub(Served(names, args.root or args.model, args.max_model_len, keys, kind))
    for path in args.middleware:
        module, _, name = path.rpartition(".")
        middleware = getattr(importlib.import_module(module), name)
        if not isclass(middleware):
            raise ValueError(f"Invalid middleware {path}. Must be a class.")
        wrap: Callable[[Any], Any] = middleware
        app = wrap(app)
    tls = None
    if args.ssl_certfile:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
    listening = unix_listener(args.uds) if args.uds else listener(args.host, args.port)
    server = StubServer(app, listening, partial(ServerFault.read, args.fault_file), tls)
    address = args.uds or f"{args.host}:{args.port}"
    sys.stdout.write(f"INFO stub of vLLM serves {args.model} as {', '.join(names)}, dtype {args.dtype}, on {address}\n")
    sys.stdout.write("INFO:     Application startup complete.\n")
    sys.stdout.flush()
    for _ in range(args.api_server_count - 1):  # as in vLLM: processes that share the port, with separate middleware
        if os.fork() == 0:
            break
    asyncio.run(server.serve())


if __name__ == "__main__":
    main()
