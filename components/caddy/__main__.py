"""`python -m components.caddy render ...`: a gateway's caddy.json for those who run Caddy themselves.

Keys are never written: the config names files or environment variables, from which Caddy reads them as it runs. With a
stack's outputs at hand:

    pulumi stack output ca_certificate >upstream-ca.pem
    python -m components.caddy render --model BAAI/bge-reranker-base \\
        --upstream 203.0.113.7:41025 --upstream 203.0.113.9:40112 --upstream-ca-file /etc/gateway/upstream-ca.pem \\
        --inbound-key-file /run/secrets/inbound_key --upstream-key-file /run/secrets/upstream_key \\
        --cert-file /run/secrets/tls_cert --key-file /run/secrets/tls_key >caddy.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from components.caddy.owned import put
from components.caddy.record import Certificate, Gateway, Json, Policy, dial, problems
from components.vast.identity import SERVER_NAME


def main(argv: Sequence[str] | None = None) -> int:
    """Print the config. Exit code 2 and a line for each unusable value."""
    args = _parser().parse_args(argv)
    gateway = gateway_from(args)
    if found := problems(gateway):
        sys.stderr.write("\n".join(f"render: {one}" for one in found) + "\n")
        return 2
    sys.stdout.write(json.dumps(standalone(gateway, args.admin_listen), indent=2) + "\n")
    return 0


def standalone(gateway: Gateway, admin_listen: str) -> dict[str, Json]:
    """Return the whole config of a Caddy that is this gateway and nothing else."""
    admin: dict[str, Json] = {"listen": admin_listen} if admin_listen else {"disabled": True}
    return put({"admin": admin | {"config": {"persist": False}}, "apps": {"http": {"metrics": {}}}}, gateway)


def gateway_from(args: argparse.Namespace) -> Gateway:
    """Read a gateway from the command line."""
    certificate = None
    if args.cert_file or args.key_file:
        certificate = Certificate("files", args.cert_file or "", args.key_file or "")
    elif args.internal_name:
        certificate = Certificate("internal", names=tuple(args.internal_name))
    return Gateway(
        site=args.site,
        listen=args.listen,
        inbound_keys=tuple(_sources(args.inbound_key_file, args.inbound_key_env)),
        upstreams=tuple(dial(one) for one in args.upstream),
        upstream_key="".join(_sources(args.upstream_key_file, args.upstream_key_env)[:1]),
        model=args.model,
        upstream_ca_file=args.upstream_ca_file,
        server_name=args.server_name,
        certificate=certificate,
        policy=Policy(max_bytes=args.max_bytes),
    )


def _sources(files: Sequence[str], variables: Sequence[str]) -> list[str]:
    return [f"{{file.{path}}}" for path in files] + [f"{{env.{name}}}" for name in variables]


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m components.caddy",
        description=lines[0],
        epilog=lines[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    render = parser.add_subparsers(required=True, metavar="render").add_parser(
        "render", help="print caddy.json", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = render.add_argument
    add("--upstream", action="append", required=True, help="host:port or URL of a reranker; repeat for each")
    add("--model", required=True, help="the model that is served, for the health checks")
    add("--listen", default=":8443", help="what clients connect to")
    add("--site", default="reranker", help="name of the server in Caddy's config")
    add("--inbound-key-file", action="append", default=[], help="where Caddy finds a key that clients may present")
    add("--inbound-key-env", action="append", default=[], help="the same, as an environment variable's name")
    add("--upstream-key-file", action="append", default=[], help="where Caddy finds the rerankers' key")
    add("--upstream-key-env", action="append", default=[], help="the same, as an environment variable's name")
    add("--upstream-ca-file", default="", help="where Caddy finds the rerankers' CA; without it they are plain HTTP")
    add("--server-name", default=SERVER_NAME, help="the name in the rerankers' certificates")
    add("--cert-file", default="", help="where Caddy finds its certificate, PEM")
    add("--key-file", default="", help="where Caddy finds its private key, PEM")
    add("--internal-name", action="append", default=[], help="instead: a name that Caddy's own CA signs for")
    add("--admin-listen", default="unix//tmp/caddy-admin.sock|0600", help="the admin API; empty turns it off")
    add("--max-bytes", type=int, default=Policy.max_bytes, help="largest body of a request")
    return parser


if __name__ == "__main__":
    sys.exit(main())
