"""The arguments that locate a reranker, and their evaluation. Used by the commands and by the examples."""

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
  {KEY_ENV}   the API key, with --url (not an argument: other users can read arguments)
  {CA_ENV}, {URL_ENV}   defaults of --ca and --url
  {CLIENT_CERTIFICATE_ENV}, {CLIENT_KEY_ENV}   defaults of --client-cert and --client-key
  {COPY_KEY_ENV}   the bearer key for a URL in --outputs
  PULUMI_CONFIG_PASSPHRASE and Pulumi's other variables, with --stack
"""


def endpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that locate the reranker."""
    group = parser.add_argument_group("location of the reranker")
    source = group.add_mutually_exclusive_group()
    source.add_argument("--stack", metavar="NAME", help="Pulumi stack (default: the selected stack)")
    source.add_argument("--outputs", metavar="FILE|URL", help="copy of the outputs, made by `rerank env --write`")
    source.add_argument("--url", help=f"address of the server; the key is in {KEY_ENV}")
    group.add_argument("-C", "--cwd", metavar="DIR", help="with --stack: the project folder (default: this folder)")
    group.add_argument("--ca", metavar="FILE", help="with --url: the CA to trust, PEM (default: public CAs)")
    group.add_argument("--client-cert", metavar="FILE", help="client certificate, PEM, if the server requires it")
    group.add_argument("--client-key", metavar="FILE", help="its private key, PEM (default: in the same file)")
    group.add_argument("--model", help="model name in requests (default: the served model)")


def endpoint_from(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Stack:
    """Return the stack named by `endpoint_arguments`; with --url, a stack that has only an endpoint.

    Raises InvalidInput or StackError.
    """
    certificate = getattr(args, "client_cert", None) or environ.get(CLIENT_CERTIFICATE_ENV, "")
    client = client_pem(certificate, getattr(args, "client_key", None) or environ.get(CLIENT_KEY_ENV, ""))
    url = args.url or ("" if args.stack or args.outputs else environ.get(URL_ENV, ""))
    if not url:
        if args.ca:
            raise InvalidInput("--ca requires --url: a stack has its own CA in its outputs")
        stack = read_copy(args.outputs, environ) if args.outputs else read_stack(args.stack, cwd=args.cwd)
        endpoint = replace(stack.endpoint, client_certificate=client, model=args.model or stack.endpoint.model)
        return replace(stack, endpoint=endpoint)
    key = environ.get(KEY_ENV, "")
    if not key:
        raise InvalidInput(f"no API key: set {KEY_ENV}")
    return Stack("", Endpoint(url, key, pem(args.ca or environ.get(CA_ENV, "")), args.model, client))
