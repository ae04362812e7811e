"""Where is the reranker? Its address, key and model, from a stack's outputs or from the command line.

Shared by the scripts beside it. Needs `pulumi` on PATH for --stack; `. scripts/env.sh` gives a shell that has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import requests

REPO = Path(__file__).resolve().parents[1]
TIMEOUT_S = 30


@dataclass(frozen=True)
class Endpoint:
    """A reranker: its base URL, its API key and the name of the model it serves."""

    url: str
    api_key: str = field(repr=False)
    model: str


def endpoint_from_args(parser: argparse.ArgumentParser) -> tuple[Endpoint, argparse.Namespace]:
    """Add --stack, --url, --api-key-env and --model, parse, return the endpoint. Exits with one line if it fails."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--stack", default="local", help="Pulumi stack whose outputs to read (default: local)")
    where.add_argument("--url", help="address of a reranker, instead of a stack")
    parser.add_argument("--api-key-env", default="RERANKER_API_KEY", help="with --url: variable that holds the key")
    parser.add_argument("--model", help="with --url: model to ask for (default: the one that is served)")
    args = parser.parse_args()
    if args.url is None:
        return from_stack(args.stack), args
    url, key = args.url.rstrip("/"), os.environ.get(args.api_key_env, "")
    if not key:
        sys.exit(f"no API key: set {args.api_key_env}, or name another variable with --api-key-env")
    return Endpoint(url, key, args.model or served_model(url, key)), args


def from_stack(name: str) -> Endpoint:
    """Read url, api_key and model from the outputs of a stack of this project."""
    command = ["pulumi", "stack", "output", "--json", "--show-secrets", "--stack", name]
    try:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("pulumi is not on PATH: run `. scripts/env.sh` first, or give --url")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"cannot read stack {name!r}: {said[-1]}")
    try:
        outputs = json.loads(done.stdout)
        return Endpoint(str(outputs["url"]).rstrip("/"), str(outputs["api_key"]), str(outputs["model"]))
    except KeyError as missing:
        sys.exit(f"stack {name!r} has no output {missing}: bring it up first (pulumi up --stack {name})")
    except (ValueError, TypeError):
        sys.exit(f"stack {name!r}: pulumi printed something that is not a JSON object")


def served_model(url: str, key: str) -> str:
    """Ask a server which model it serves."""
    try:
        answer = requests.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (requests.RequestException, LookupError, TypeError, ValueError) as error:
        sys.exit(f"cannot ask {url} which model it serves: {error}")
