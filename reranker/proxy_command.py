"""`rerank proxy`: arguments and start of the proxy. Called by `command`; needs the package's extra `proxy`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from reranker.arguments import endpoint_arguments, endpoint_from
from reranker.errors import InvalidInput
from reranker.output import Output
from reranker.patience import Patience
from reranker.secret import read_secret

ABOUT = """\
Serve a stack to applications on this machine over plain HTTP. The proxy adds TLS, CA and key, splits long lists,
retries failed requests, cuts long texts, and follows the stack to a new address or key. It supports the APIs of Cohere
v1 and v2, Jina, TEI, Voyage, Infinity and vLLM. If the fields of the request do not identify the API, the path does:
http://127.0.0.1:8787/voyage/v1, /infinity, /tei, /cohere, /jina."""
EPILOG = """\
It prints its address when it is ready. SIGTERM and Ctrl-C stop it after the current requests.

  rerank proxy --stack prod                                 read the outputs with Pulumi
  rerank proxy --outputs /run/reranker.json                 read a file made by `rerank env --write`, without Pulumi
  rerank proxy --outputs FILE --listen 0.0.0.0:8787 --key-file /run/secrets/proxy-key

GET /health sends a request to the stack; GET /metrics is for Prometheus."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--listen", default="127.0.0.1:8787", metavar="HOST:PORT", help="default: 127.0.0.1:8787")
    add("--key-file", metavar="FILE", help="require the key in this file as bearer token")
    add("--no-key", action="store_true", help="allow a listen address beyond loopback without --key-file")
    add("--alias", action="append", default=[], metavar="NAME", help="accept this model name; *: accept any name")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds for a request (default: 60)")
    text = "read the outputs every S seconds (default: 30) and after failures; 0: only after failures"
    add("--follow", type=float, default=30.0, metavar="S", help=text)
    add("--max-requests", type=int, default=256, metavar="N", help="concurrent requests (default: 256)")
    add("--max-body-mb", type=int, default=32, metavar="MB", help="size of a request body (default: 32)")
    endpoint_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Serve until a signal. Raises RerankerError if the proxy cannot start."""
    try:
        from reranker.proxy import Options, Proxy, serve  # noqa: PLC0415
        from reranker.upstream import Upstream  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(f"the proxy needs {error.name}: pip install 'vast-reranker-client[proxy]'") from None
    host, _, port = args.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInput("--listen must be HOST:PORT")
    options = Options(
        host=host.strip("[]"),
        port=int(port),
        key=_key(args.key_file) if args.key_file else "",
        aliases=frozenset(args.alias),
        deadline_s=args.timeout,
        follow_s=args.follow,
        max_requests=args.max_requests,
        max_body_bytes=args.max_body_mb << 20,
    )
    if not (options.is_loopback or options.key or args.no_key):
        raise InvalidInput(
            f"other machines can reach {host} without a key: give --key-file FILE, or --no-key if only the application "
            "can reach it"
        )

    async def main() -> None:
        upstream = Upstream(lambda: endpoint_from(args).endpoint, Patience(deadline_s=args.timeout), out.log)
        await serve(Proxy(upstream, options), lambda url: out.print_lines([url]))

    try:
        asyncio.run(main())
    except OSError as error:
        raise InvalidInput(f"cannot listen on {args.listen}: {error.strerror}") from None
    return 0


def _key(path: str) -> str:
    try:
        key = read_secret(Path(path).read_text(encoding="utf-8"), path)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    if not key:
        raise InvalidInput(f"{path} is empty: it must contain the key for requests")
    return key
