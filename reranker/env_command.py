"""`rerank env`: prints the configuration of an application, or writes a copy of the outputs. Called by `command`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from reranker.applications import read_applications
from reranker.arguments import endpoint_arguments, endpoint_from
from reranker.endpoint import Endpoint
from reranker.errors import InvalidInput
from reranker.output import Output

ABOUT = """\
Print the configuration of an application: address, key, model, and the variable or setting for the CA. With --proxy it
contains the address of a `rerank proxy`, which needs neither key nor CA."""
EPILOG = """\
  rerank env --stack prod                                   variables for a shell and the package `reranker`
  rerank env --stack prod --for open-webui --show-key       with the key
  rerank env --for librechat --proxy http://127.0.0.1:8787
  rerank env --stack prod --write-ca ca.pem                 also write the CA to a file
  rerank env --stack prod --write /run/reranker.json        write a copy of the outputs, with the key, mode 0600

docs/plug-it-into.md lists all applications."""
PROXY = "http://127.0.0.1:8787"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = list(read_applications())
    parser.add_argument(
        "--for", dest="application", default="shell", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument(
        "--proxy", nargs="?", const=PROXY, metavar="URL", help=f"address of `rerank proxy` (without URL: {PROXY})"
    )
    parser.add_argument("--show-key", action="store_true", help="print the key instead of a placeholder")
    parser.add_argument("--write-ca", metavar="FILE", help="write the stack's CA to FILE, PEM")
    parser.add_argument("--write", metavar="FILE", help="write url, key, CA and model to FILE as JSON; print nothing")
    endpoint_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the configuration to standard output, and notes about it to standard error."""
    application = read_applications()[args.application]
    endpoint = endpoint_from(args).endpoint
    if args.write:
        write_private(Path(args.write), json.dumps(client_outputs(endpoint), indent=1))
        return 0
    if args.write_ca:
        if not endpoint.ca_certificate:
            raise InvalidInput("--write-ca: the stack has no CA of its own; clients trust public CAs")
        write_private(Path(args.write_ca), endpoint.ca_certificate)
    values = {"MODEL": endpoint.model} if endpoint.model else {}
    if application.proxy and not args.proxy:
        out.log(f"needs the proxy: {application.proxy}; assumed address: {PROXY}; start it with: rerank proxy")
    if args.proxy or application.proxy:
        values |= {"URL": (args.proxy or PROXY).rstrip("/"), "KEY": "unused"}
    else:
        values["URL"] = endpoint.url
        if args.show_key:
            values["KEY"] = endpoint.api_key
        else:
            out.log("<KEY>: --show-key prints it, or: pulumi stack output api_key --show-secrets")
        if endpoint.ca_certificate:
            values["CA"] = str(Path(args.write_ca).resolve()) if args.write_ca else "ca.pem"
            if not args.write_ca:
                out.log("ca.pem: --write-ca ca.pem writes it")
    out.print_lines([application.fill(values)])
    if application.note:
        out.log(application.note)
    return 0


def client_outputs(endpoint: Endpoint) -> dict[str, str | None]:
    """Return the stack outputs that clients need."""
    return {
        "url": endpoint.url,
        "api_key": endpoint.api_key,
        "ca_certificate": endpoint.ca_certificate,
        "model": endpoint.model,
    }


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, with mode 0600. Raises InvalidInput."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from None
