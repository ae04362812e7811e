"""The arguments of `rerank proxy`, and its start. Called by `command`; needs the package's extra `proxy`."""

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
Serve a stack to applications on this machine, as plain HTTP. The proxy does TLS, trusts the CA, sends the key, splits
long lists, repeats and cuts, and follows the stack to a new address or key. It speaks Cohere v1 and v2, Jina, TEI,
Voyage, Infinity and vLLM. Where the request's fields do not tell which one, the path does: http://127.0.0.1:8787/voyage/v1,
/infinity, /tei, /cohere, /jina."""
EPILOG = """\
It prints its address when it is ready. SIGTERM and Ctrl-C stop it when the requests under way are answered.

  rerank proxy --stack prod                                 reads the outputs with Pulumi, again when they change
  rerank proxy --outputs /run/reranker.json                 reads a file that `rerank env --write` makes: no Pulumi
  rerank proxy --outputs FILE --listen 0.0.0.0:8787 --key-file /run/secrets/proxy-key

GET /health asks the stack; GET /metrics is for Prometheus."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--listen", default="127.0.0.1:8787", metavar="HOST:PORT", help="default: 127.0.0.1:8787")
    parser.add_argument("--key-file", metavar="FILE", help="requests need the key in this file, as a bearer token")
    parser.add_argument("--no-key", action="store_true", help="needed to listen beyond loopback without --key-file")
    parser.add_argument(
        "--alias", action="append", default=[], metavar="NAME", help="take this name for the model; * takes any name"
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for a request (default: 60)")
    parser.add_argument(
        "--follow",
        type=float,
        default=30.0,
        metavar="S",
        help="look every S seconds whether the stack has moved (default: 30), besides when it fails; 0: only then",
    )
    parser.add_argument("--max-requests", type=int, default=256, metavar="N", help="at once; default: 256")
    parser.add_argument("--max-body-mb", type=int, default=32, metavar="MB", help="of a request; default: 32")
    endpoint_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Serve until a signal. Raises RerankerError where it cannot begin."""
    try:
        from reranker.proxy import Options, Proxy, serve  # noqa: PLC0415
        from reranker.upstream import Upstream  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(f"the proxy needs {error.name}: pip install 'vast-reranker-client[proxy]'") from None
    host, _, port = args.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInput("--listen is HOST:PORT")
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
            f"{host} can be reached from other machines, whose requests would need no key: give --key-file FILE, or "
            "--no-key where only the application can reach it"
        )

    def ready(url: str) -> None:
        out.lines([url])

    async def main() -> None:
        upstream = Upstream(lambda: endpoint_from(args).endpoint, Patience(deadline_s=args.timeout), say=out.say)
        await serve(Proxy(upstream, options), ready)

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
        raise InvalidInput(f"{path} is empty: it holds the key that requests need")
    return key
