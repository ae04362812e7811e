"""The arguments that say where a reranker is, and what they name. Used by the commands, and by scripts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace

from reranker.endpoint import (
    CA_ENV,
    CLIENT_CERTIFICATE_ENV,
    CLIENT_KEY_ENV,
    KEY_ENV,
    URL_ENV,
    Endpoint,
    client_pem,
    pem,
)
from reranker.errors import InvalidInput
from reranker.stack import COPY_KEY_ENV, Stack, read_copy, read_stack

ENVIRONMENT = f"""environment:
  {KEY_ENV}   the key, with --url (a key is never an argument: others can read those)
  {CA_ENV}, {URL_ENV}   in place of --ca and --url
  {CLIENT_CERTIFICATE_ENV}, {CLIENT_KEY_ENV}   in place of --client-cert and --client-key
  {COPY_KEY_ENV}   the key of an address in --outputs
  PULUMI_CONFIG_PASSPHRASE and the rest of Pulumi's own, with --stack
"""


def endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where the reranker is."""
    group = parser.add_argument_group("where the reranker is")
    one_of = group.add_mutually_exclusive_group()
    one_of.add_argument("--stack", metavar="NAME", help="a Pulumi stack, by its outputs (default: the selected one)")
    one_of.add_argument("--outputs", metavar="FILE|URL", help="a copy of its outputs, made by `rerank env --write`")
    one_of.add_argument("--url", help=f"its address instead; the key is in {KEY_ENV}")
    group.add_argument("-C", "--cwd", metavar="DIR", help="with --stack: the project's folder (default: this one)")
    group.add_argument("--ca", metavar="FILE", help="with --url: the CA to trust, PEM (default: public CAs)")
    group.add_argument("--client-cert", metavar="FILE", help="the client's certificate, PEM, where it asks for one")
    group.add_argument("--client-key", metavar="FILE", help="its private key, PEM (default: in the same file)")
    group.add_argument("--model", help="the model to ask for (default: the one that is served)")


def endpoint_from(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Stack:
    """Return what the arguments of `endpoint_arguments` name; an address is a stack of which little is known.

    Raises InvalidInput or StackError.
    """
    given = vars(args)
    certificate = given.get("client_cert") or environ.get(CLIENT_CERTIFICATE_ENV, "")
    client = client_pem(certificate, given.get("client_key") or environ.get(CLIENT_KEY_ENV, ""))
    url = args.url or ("" if args.stack or args.outputs else environ.get(URL_ENV, ""))
    if not url:
        if args.ca:
            raise InvalidInput("--ca goes with --url: a stack has its own CA among its outputs")
        stack = read_copy(args.outputs, environ) if args.outputs else read_stack(args.stack, cwd=args.cwd)
        endpoint = replace(stack.endpoint, client_certificate=client, model=args.model or stack.endpoint.model)
        return replace(stack, endpoint=endpoint)
    key = environ.get(KEY_ENV, "")
    if not key:
        raise InvalidInput(f"no API key: set {KEY_ENV}")
    return Stack("", Endpoint(url, key, pem(args.ca or environ.get(CA_ENV, "")), args.model, client))
