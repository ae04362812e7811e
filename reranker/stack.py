"""Stack: the outputs of a deployed Pulumi stack, from `pulumi` or from a copy. Used by `client` and `command`."""

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

# A file backend answers in half a second; Pulumi Cloud takes longer, and a wrong network forever.
TIMEOUT_S = 60.0
COPY_TIMEOUT_S = 10.0
COPY_BYTES = 1 << 20
COPY_KEY_ENV = "RERANKER_OUTPUTS_KEY"


@dataclass(frozen=True)
class Replica:
    """A rented machine that serves. None for what the outputs do not say."""

    instance_id: str | None = None
    machine_id: str | None = None
    gpu: str | None = None


@dataclass(frozen=True)
class Stack:
    """A deployed stack: how to reach it, what serves there, and what all that is rented costs in an hour."""

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
    """Run `pulumi stack output --json --show-secrets` and return what it says; `name` None is the selected stack.

    `cwd` is the folder of the project (or one below it); Pulumi finds backend and passphrase as it always does.
    Raises PulumiMissing, UnknownStack, NotDeployed, WrongPassphrase, or StackError with Pulumi's own words.
    """
    command = [pulumi, "stack", "output", "--json", "--show-secrets", "--non-interactive"]
    command += ["--stack", name] if name else []
    shown = f"stack {name!r}" if name else "the selected stack"
    env = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise StackError(f"{shown}: pulumi did not answer within {timeout_s:g} s") from None
    except OSError as error:
        if cwd is not None and not os.path.isdir(cwd):
            raise StackError(f"{os.fspath(cwd)!r} is not a folder") from None
        raise PulumiMissing(f"{pulumi!r} cannot be run ({error.strerror}): put Pulumi on PATH, or give a URL") from None
    if done.returncode != 0:
        raise _failure(shown, done.stderr)
    try:
        outputs = json.loads(done.stdout)
    except ValueError:
        outputs = None
    if not isinstance(outputs, dict):
        raise StackError(f"{shown}: pulumi printed something that is not a JSON object")
    return from_outputs(name or "", outputs, shown)


def read_copy(place: str, environ: Mapping[str, str] = os.environ) -> Stack:
    """Return the stack whose outputs are, as JSON, in a file or at an http(s) address. Raises StackError.

    `rerank env --write FILE` makes one, and so does `pulumi stack output --json --show-secrets`. COPY_KEY_ENV is the
    bearer key of an address.
    """
    shown = place
    try:
        if place.startswith(("http://", "https://")):
            parts = urlsplit(place)
            shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # a query may sign the address
            ask = HttpTransport(connect_s=COPY_TIMEOUT_S)
            headers = bearer(environ.get(COPY_KEY_ENV))
            answer = ask("GET", place, headers=headers, timeout_s=COPY_TIMEOUT_S, max_bytes=COPY_BYTES)
            if answer.status != 200:
                raise StackError(f"the outputs cannot be read: {shown} answered HTTP {answer.status}")
            content = answer.body
        else:
            content = Path(place).read_bytes()
        outputs = json.loads(content)
    except Unanswered as error:
        raise StackError(f"the outputs cannot be read: {shown}: {error}") from None
    except OSError as error:
        raise StackError(f"the outputs cannot be read: {shown}: {error.strerror}") from None
    except ValueError:
        outputs = None
    if not isinstance(outputs, dict):
        raise StackError(f"{shown} holds no JSON object: write it with `rerank env --write FILE`")
    return from_outputs("", outputs, shown)


def from_outputs(name: str, outputs: dict[str, Any], shown: str = "the stack") -> Stack:
    """Return the stack that these outputs describe. Raises NotDeployed where url or api_key is missing."""
    missing = [key for key in ("url", "api_key") if not outputs.get(key)]
    if missing:
        raise NotDeployed(f"{shown} has no output {' and no '.join(missing)}: bring it up first (pulumi up)")
    try:
        endpoint = Endpoint(
            str(outputs["url"]),
            str(outputs["api_key"]),
            str(outputs.get("ca_certificate") or ""),
            _text(outputs.get("model")),
        )
    except InvalidInput as error:
        raise StackError(f"{shown}: its outputs cannot be used: {error}") from None
    cost = outputs.get("hourly_cost_usd")
    total = cost.get("total") if isinstance(cost, dict) else cost
    rows = outputs.get("replicas")
    replicas = [_replica(row) for row in (rows if isinstance(rows, list) and rows else [outputs])]
    return Stack(
        name=name,
        endpoint=endpoint,
        replicas=tuple(one for one in replicas if one != Replica()),
        hourly_cost_usd=float(total) if isinstance(total, int | float) else None,
    )


def _replica(row: object) -> Replica:
    row = row if isinstance(row, dict) else {}
    return Replica(_text(row.get("instance_id")), _text(row.get("machine_id")), _text(row.get("gpu")))


def _text(value: object) -> str | None:
    """Return an output as text; Pulumi gives whole numbers as 7 or 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or value == "" else str(value)


def _failure(shown: str, stderr: str) -> StackError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "no message")
    said = said.removeprefix("error:").strip()
    if re.search(r"passphrase", said):
        return WrongPassphrase(
            f"{shown}: its secrets cannot be decrypted: set PULUMI_CONFIG_PASSPHRASE (or "
            "PULUMI_CONFIG_PASSPHRASE_FILE) to the passphrase of this stack"
        )
    if re.search(r"no stack (named|selected)", said):
        return UnknownStack(f"{shown}: {said}; `pulumi stack ls` lists what there is")
    return StackError(f"{shown} cannot be read: {said}")
