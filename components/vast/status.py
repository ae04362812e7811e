"""What an instance's state fields mean: which stage of its boot it is in, or why it will never serve.

Vast has four fields that each tell a part (`actual_status`, `cur_state`, `intended_status`, `next_state`) and free
text in `status_msg` (docs: "show instance", "manage instances"). Pure; called by `attempt` and `drift`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from components.redaction import excerpt
from components.vast.models import Contract

Stage = Literal["rented", "pulling", "starting", "port", "serving"]
STAGES: tuple[Stage, ...] = ("rented", "pulling", "starting", "port", "serving")

# Whose fault a failure is, as far as one machine can tell: `spec` is sure, `either` is the spec's when it repeats.
Fault = Literal["host", "either", "spec"]

# Never become running by waiting (docs: "instances", warning on exited, unknown and offline).
DEAD = frozenset({"exited", "stopped", "frozen"})
AWAY = frozenset({"offline", "unknown"})

_OCI = re.compile(r"OCI runtime|unresolvable CDI|failed to create (?:task|container|shim)", re.IGNORECASE)
_PULL = re.compile(
    r"manifest (?:unknown|for .* not found)|pull access denied|repository does not exist|failed to resolve reference"
    r"|unauthorized:|toomanyrequests|no space left on device|failed to (?:pull|register)|error pulling",
    re.IGNORECASE,
)
# Faults of one host, however often they are met: its GPU wiring, its disk, its registry quota.
_HOSTS_OWN = re.compile(r"CDI device|toomanyrequests|no space left", re.IGNORECASE)
_PULLING = re.compile(r"pull|download|extract|verifying|waiting", re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3})\s?%")


@dataclass(frozen=True)
class Failure:
    """Why an instance will not serve: a sign (for counting alike ones), words, and whose fault it looks like."""

    sign: str
    text: str
    fault: Fault = "host"


@dataclass(frozen=True)
class Observation:
    """One look at a contract: its stage, or its failure; where its port is reached; what it says of its progress."""

    stage: Stage
    progress: str
    failure: Failure | None = None
    away: bool = False
    ip: str = ""
    port: int | None = None

    @property
    def percent(self) -> int | None:
        found = _PERCENT.search(self.progress)
        return min(int(found[1]), 100) if found else None


def observe(contract: Contract, container_port: int) -> Observation:
    """Return what the API's fields say. That a port is mapped says nothing of whether the server answers."""
    message = excerpt(contract.status_msg, contract.env_values())  # a host may echo the command
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
        return Observation("starting", message or f"the host is {status}", away=True)
    if status == "loading":
        stage: Stage = "pulling" if _PULLING.search(message) or not message else "starting"
        return Observation(stage, message)
    if status in ("rebooting", "recycling", "restarting"):
        return Observation("starting", message or status)
    return Observation("rented", message or status or "contract made")


OUTBID = Failure("outbid", "the instance was outbid and paused")


def _failure(contract: Contract, status: str, message: str) -> Failure | None:
    if _OCI.search(message) and status in ("created", "loading", ""):
        fault: Fault = "host" if _HOSTS_OWN.search(message) else "either"
        return Failure("oci", f"the host cannot create the container: {message}", fault)
    if _PULL.search(message) and status in ("created", "loading", ""):
        fault = "host" if _HOSTS_OWN.search(message) else "either"
        return Failure("pull", f"the image cannot be pulled: {message}", fault)
    if status == "exited":
        return Failure("exited", f"the container exited: {message}", "either")
    if contract.cur_state == contract.intended_status == contract.next_state == "stopped":
        if contract.is_bid:
            return OUTBID
        return Failure("stopped", "the instance was stopped by the host, by someone else or for want of credit")
    if status == "created" and contract.cur_state == "stopped":
        return Failure(
            "created-stopped", f"the container was made but stopped at once: {message or 'no message'}", "either"
        )
    if status in DEAD:
        if contract.is_bid and contract.intended_status == "running":
            return OUTBID
        return Failure(status, f"the instance is {status}")
    if contract.is_bid and contract.cur_state == "stopped" and contract.intended_status == "running":
        return OUTBID
    return None


def without_numbers(line: str) -> str:
    """Return a log line without what differs between two runs of the same fault: every word with a digit in it."""
    return re.sub(r"\S*\d\S*", "#", line)[:160]
