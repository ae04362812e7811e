"""Reads the location of the reranker from the command line. Called by the scripts with other clients."""

from __future__ import annotations

import argparse
import sys

from reranker import Endpoint, Reranker, RerankerError
from reranker.arguments import endpoint_arguments, endpoint_from


def connect(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Endpoint, str]:
    """Return the arguments, the endpoint, and the name of the served model. Exits with a message on an error."""
    endpoint_arguments(parser)
    args = parser.parse_args()
    try:
        endpoint = endpoint_from(args).endpoint
        return args, endpoint, endpoint.model or Reranker(endpoint).models()[0].id
    except RerankerError as error:
        sys.exit(str(error))
