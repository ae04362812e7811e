"""Reads the outputs of a deployed Pulumi stack, from `pulumi` or from a copy. Used by `client` and the commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reranker.endpoint import Endpoint
from reranker.errors import InvalidInput, NotDeployed, PulumiMissing, StackError, UnknownStack, WrongPassphrase
from reranker.http import HttpTransport, Unanswered, bearer

TIMEOUT_S = 60.0
COPY_TIMEOUT_S = 10.0
COPY_BYTES = 1 << 20
COPY_KEY_ENV = "RERANKER_OUTPUTS_KEY"


@dataclass(frozen=True)
class Replica:
    """A rented machine that serves the model. A field is None if it is not in the outputs."""

    instance_id: str | None = None
    machine_id: str | None = None
    gpu: str | None = None


@dataclass(frozen=True)
class Stack:
    """A deployed stack: endpoint, replicas, and the cost of all rented machines in USD per hour."""

    name: str
    endpoint: Endpoint
    replicas: tuple[Replica, ...] = ()
    hourly_cost_usd: float | None = None


def read_stack(
    name: str | None = None,
    *,
    cwd: str | os.PathLike[str] | None = None,
    pulumi: str = "pulumi",
    timeout_s: float = TIMEOUT_S,
) -> Stack:
    """Run `pulumi stack output --json --show-secrets` and return the stack; `name` None is the selected stack.

    `cwd`: the project folder or a folder below it. Backend and passphrase come from Pulumi's usual variables.
    Raises PulumiMissing, UnknownStack, NotDeployed, WrongPassphrase, or StackError with Pulumi's message.
    """
    command = [pulumi, "stack", "output", "--json", "--show-secrets", "--non-interactive"]
    command += ["--stack", name] if name else []
    description = f"stack {name!r}" if name else "the selected stack"
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"{description}: pulumi did not finish within {timeout_s:g} s") from None
    except OSError as error:
        if cwd is not None and not os.path.isdir(cwd):
            raise StackError(f"{os.fspath(cwd)!r} is not a folder") from None
        raise PulumiMissing(f"{pulumi!r} cannot be run ({error.strerror}): put Pulumi on PATH, or give a URL") from None
    if done.returncode != 0:
        raise _failure(description, done.stderr)
    try:
        outputs = json.loads(done.stdout)
    except ValueError:
        outputs = None
    if not isinstance(outputs, dict):
        raise StackError(f"{description}: the output of pulumi is not a JSON object")
    return from_outputs(name or "", outputs, description)


def read_copy(source: str, environ: Mapping[str, str] = os.environ) -> Stack:
    """Return the stack from a copy of its outputs: a JSON file, or an http(s) URL. Raises StackError.

    `rerank env --write FILE` and `pulumi stack output --json --show-secrets` make such a copy. The variable
    COPY_KEY_ENV is the bearer key for a URL.
    """
    description = source
    try:
        if source.startswith(("http://", "https://")):
            parts = urlsplit(source)
            # the query is omitted: it may contain a signature
            description = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            headers = bearer(environ.get(COPY_KEY_ENV))
            transport = HttpTransport(connect_s=COPY_TIMEOUT_S)
            answer = transport("GET", source, headers=headers, timeout_s=COPY_TIMEOUT_S, max_bytes=COPY_BYTES)
            if answer.status != 200:
                raise StackError(f"the outputs cannot be read: {description} answered HTTP {answer.status}")
            content = answer.body
        else:
            content = Path(source).read_bytes()
        outputs = json.loads(content)
    except Unanswered as error:
        raise StackError(f"the outputs cannot be read: {description}: {error}") from None
    except OSError as error:
        raise StackError(f"the outputs cannot be read: {description}: {error.strerror}") from None
    except ValueError:
        outputs = None
    if not isinstance(outputs, dict):
        raise StackError(f"{description} contains no JSON object: write it with `rerank env --write FILE`")
    return from_outputs("", outputs, description)


def from_outputs(name: str, outputs: dict[str, Any], description: str = "the stack") -> Stack:
    """Return the stack for these outputs. Raises NotDeployed if url or api_key is missing, or StackError."""
    missing = [key for key in ("url", "api_key") if not outputs.get(key)]
    if missing:
        raise NotDeployed(f"{description} has no output {' and no '.join(missing)}: deploy it first (pulumi up)")
    try:
        endpoint = Endpoint(
            str(outputs["url"]),
            str(outputs["api_key"]),
            str(outputs.get("ca_certificate") or ""),
            _text(outputs.get("model")),
        )
    except InvalidInput as error:
        raise StackError(f"{description}: the outputs are invalid: {error}") from None
    cost = outputs.get("hourly_cost_usd")
    total = cost.get("total") if isinstance(cost, dict) else cost
    rows = outputs.get("replicas")
    replicas = [_replica(row) for row in (rows if isinstance(rows, list) and rows else [outputs])]
    return Stack(
        name=name,
        endpoint=endpoint,
        replicas=tuple(replica for replica in replicas if replica != Replica()),
        hourly_cost_usd=float(total) if isinstance(total, int | float) else None,
    )


def _replica(row: object) -> Replica:
    row = row if isinstance(row, dict) else {}
    return Replica(_text(row.get("instance_id")), _text(row.get("machine_id")), _text(row.get("gpu")))


def _text(value: object) -> str | None:
    """Return an output as text; Pulumi prints whole numbers as 7 or 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or value == "" else str(value)


def _failure(description: str, stderr: str) -> StackError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    message = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "no message")
    message = message.removeprefix("error:").strip()
    if "passphrase" in message:
        return WrongPassphrase(
            f"{description}: the secrets cannot be decrypted: set PULUMI_CONFIG_PASSPHRASE (or "
            "PULUMI_CONFIG_PASSPHRASE_FILE) to the passphrase of this stack"
        )
    if re.search(r"no stack (named|selected)", message):
        return UnknownStack(f"{description}: {message}; `pulumi stack ls` lists the stacks")
    return StackError(f"{description} cannot be read: {message}")
