"""Where the reranker is, read from the command line. Used by the scripts beside it that bring a client of their own."""

from __future__ import annotations

import argparse
import sys

from reranker import Endpoint, Reranker, RerankerError
from reranker.arguments import endpoint_arguments, endpoint_from


def connect(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Endpoint, str]:
    """Return the arguments, the endpoint that they name, and the model that it serves. Exits with what is wrong."""
    endpoint_arguments(parser)
    args = parser.parse_args()
    try:
        endpoint = endpoint_from(args).endpoint
        return args, endpoint, endpoint.model or Reranker(endpoint).models()[0].id
    except RerankerError as error:
        sys.exit(str(error))
