"""Interprets an instance's state fields: the stage of its boot, or the reason why it will never serve.

Vast.ai has four state fields (`actual_status`, `cur_state`, `intended_status`, `next_state`) and free text in
`status_msg` (docs: "show instance", "manage instances"). Pure; called by `attempt` and `drift`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from components.redaction import excerpt
from components.vast.models import Contract

Stage = Literal["rented", "pulling", "starting", "port", "serving"]
STAGES: tuple[Stage, ...] = ("rented", "pulling", "starting", "port", "serving")

# Cause of a failure. `either`: the host, or the spec if the failure repeats on another machine.
Fault = Literal["host", "either", "spec"]

# These never become "running" again (docs: "instances", warning on exited, unknown and offline).
DEAD = frozenset({"exited", "stopped", "frozen"})
AWAY = frozenset({"offline", "unknown"})

_OCI = re.compile(r"OCI runtime|unresolvable CDI|failed to create (?:task|container|shim)", re.IGNORECASE)
_PULL = re.compile(
    r"manifest (?:unknown|for .* not found)|pull access denied|repository does not exist|failed to resolve reference"
    r"|unauthorized:|toomanyrequests|no space left on device|failed to (?:pull|register)|error pulling",
    re.IGNORECASE,
)
# Faults of one host, even if they repeat: its GPU setup, its disk, its registry quota.
_HOST_FAULT = re.compile(r"CDI device|toomanyrequests|no space left", re.IGNORECASE)
_PULLING = re.compile(r"pull|download|extract|verifying|waiting", re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})\s?%")


@dataclass(frozen=True)
class Failure:
    """Why an instance will not serve. `sign`: equal for equal failures, to count them."""

    sign: str
    text: str
    fault: Fault = "host"


@dataclass(frozen=True)
class Observation:
    """The state of a contract: stage, progress text of the host, failure, and the address once its port is mapped."""

    stage: Stage
    progress: str
    failure: Failure | None = None
    is_away: bool = False
    ip: str = ""
    port: int | None = None

    @property
    def percent(self) -> int | None:
        match = _PERCENT.search(self.progress)
        return min(int(match[1]), 100) if match else None


def observe(contract: Contract, container_port: int) -> Observation:
    """Interpret the API's fields. A mapped port does not mean that the server responds."""
    # a host's message may contain the command with its secrets
    message = excerpt(contract.status_msg, contract.env_values())
    status = contract.actual_status
    failure = _failure(contract, status, message)
    if failure is not None:
        return Observation("starting" if status == "exited" else "pulling", message, failure)
    if status == "running":
        port = contract.host_port(container_port)
        if port is None or not contract.public_ip:
            return Observation("port", message or "no port mapped yet")
        return Observation("serving", message, ip=contract.public_ip, port=port)
    if status in AWAY:
        return Observation("starting", message or f"the host is {status}", is_away=True)
    if status == "loading":
        return Observation("pulling" if _PULLING.search(message) or not message else "starting", message)
    if status in ("rebooting", "recycling", "restarting"):
        return Observation("starting", message or status)
    return Observation("rented", message or status or "contract made")


OUTBID = Failure("outbid", "the instance was outbid and paused")


def _failure(contract: Contract, status: str, message: str) -> Failure | None:
    fault: Fault = "host" if _HOST_FAULT.search(message) else "either"
    if _OCI.search(message) and status in ("created", "loading", ""):
        return Failure("oci", f"the host cannot create the container: {message}", fault)
    if _PULL.search(message) and status in ("created", "loading", ""):
        return Failure("pull", f"the image cannot be pulled: {message}", fault)
    if status == "exited":
        return Failure("exited", f"the container exited: {message}", "either")
    if contract.cur_state == contract.intended_status == contract.next_state == "stopped":
        if contract.is_bid:
            return OUTBID
        return Failure("stopped", "the instance was stopped by the host, by someone else or for lack of credit")
    if status == "created" and contract.cur_state == "stopped":
        text = f"the container was created but stopped immediately: {message or 'no message'}"
        return Failure("created-stopped", text, "either")
    if status in DEAD:
        if contract.is_bid and contract.intended_status == "running":
            return OUTBID
        return Failure(status, f"the instance is {status}")
    if contract.is_bid and contract.cur_state == "stopped" and contract.intended_status == "running":
        return OUTBID
    return None


def without_numbers(line: str) -> str:
    """Replace each word with a digit by "#", so that log lines of the same fault in two runs are equal."""
    return re.sub(r"\S*\d\S*", "#", line)[:160]
