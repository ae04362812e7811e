"""`rerank env`: the lines that plug a stack into an application, and a copy of its outputs for `--outputs`.

Called by `command`.
"""

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
Print what to paste into an application: the address in the form that it takes, the key, the model, and the variable or
setting for the CA; or with --proxy the address of a `rerank proxy`, which needs neither key nor CA."""
EPILOG = """\
  rerank env --stack prod                                   variables for a shell and the package `reranker`
  rerank env --stack prod --for open-webui --show-key       with the key itself
  rerank env --for librechat --proxy http://127.0.0.1:8787
  rerank env --stack prod --write-ca ca.pem                 the CA into a file, which the block names
  rerank env --stack prod --write /run/reranker.json        a copy of the outputs, key included, for this user alone

The docs' page "Plug it into" has all blocks."""
PROXY = "http://127.0.0.1:8787"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    names = list(read_applications())
    parser.add_argument(
        "--for", dest="application", default="shell", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--proxy", nargs="?", const=PROXY, metavar="URL", help=f"of `rerank proxy`; alone: {PROXY}")
    parser.add_argument("--show-key", action="store_true", help="print the key, not where it is")
    parser.add_argument("--write-ca", metavar="FILE", help="write the stack's CA there, in PEM")
    parser.add_argument("--write", metavar="FILE", help="write url, key, CA and model there as JSON, and print nothing")
    endpoint_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the block; what to know about it goes to standard error."""
    application = read_applications()[args.application]
    endpoint = endpoint_from(args).endpoint
    if args.write:
        write_private(Path(args.write), json.dumps(outputs_of(endpoint), indent=1))
        return 0
    if args.write_ca:
        if not endpoint.ca_certificate:
            raise InvalidInput("--write-ca: there is no CA to write: clients trust the public ones")
        write_private(Path(args.write_ca), endpoint.ca_certificate)
    values = {"MODEL": endpoint.model} if endpoint.model else {}
    if application.proxy and not args.proxy:
        out.say(f"needs the proxy: {application.proxy}; it is taken to be at {PROXY}: rerank proxy")
    if args.proxy or application.proxy:
        values |= {"URL": (args.proxy or PROXY).rstrip("/"), "KEY": "unused"}
    else:
        values["URL"] = endpoint.url
        if args.show_key:
            values["KEY"] = endpoint.api_key
        else:
            out.say("<KEY>: --show-key prints it, or: pulumi stack output api_key --show-secrets")
        if endpoint.ca_certificate:
            values["CA"] = str(Path(args.write_ca).resolve()) if args.write_ca else "ca.pem"
            if not args.write_ca:
                out.say("ca.pem: --write-ca ca.pem writes it")
    out.lines([application.filled(values)])
    if application.note:
        out.say(application.note)
    return 0


def outputs_of(endpoint: Endpoint) -> dict[str, str | None]:
    """Return what a client needs of a stack's outputs, by their names."""
    return {
        "url": endpoint.url,
        "api_key": endpoint.api_key,
        "ca_certificate": endpoint.ca_certificate,
        "model": endpoint.model,
    }


def write_private(path: Path, text: str) -> None:
    """Write a file that this user alone can read, in one step: no one sees half of it. Raises InvalidInput."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from None
