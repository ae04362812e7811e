"""`python -m ops.status`: one table of what a stack runs, whether it answers, what it costs and until when.

Reads the stack's outputs, the instance at Vast.ai and the server itself. Plans nothing: what drifted in detail is
`python -m ops.drift`, whose last finding is shown here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import ServingError
from components.plugin.session import open_session
from components.vast.models import Contract
from components.vast.ranking import minutes
from components.vllm.client import RerankClient
from ops import report
from ops.command import Command, Outcome
from ops.engine import Pulumi
from ops.exits import OK
from ops.memory import DRIFT_SINCE, EXPIRES, Memory
from ops.outputs import Outputs, Replica

PROBE_TIMEOUT_S = 15.0
HEAD = ("instance", "state", "answers", "$/h", "cost so far", "contract ends", "machine", "url")


def work(pulumi: Pulumi, _args: argparse.Namespace) -> Outcome:
    """Look at everything the stack has. Raises OpsError, VastError."""
    outputs = Outputs.parse(pulumi.outputs())
    memory = Memory(pulumi)
    since, expires = memory.recall(DRIFT_SINCE), memory.recall(EXPIRES)
    rows: list[Mapping[str, Any]] = []
    if outputs.replicas:
        client = open_session(lambda key: pulumi.config(key) or None).client
        with trusted(outputs) as verify:
            rows = [row(one, client.instance(one.instance_id), outputs, verify) for one in outputs.replicas]
    drift = f"since {since:%Y-%m-%d %H:%M} UTC" if since else "none found by the last check"
    validated = {None: "never", True: f"passed, {outputs.checks} checks", False: "FAILED"}[outputs.validated]
    facts = {
        "url": outputs.url,
        "model": outputs.model,
        "instances": rows,
        "hourly_cost_usd": outputs.hourly_cost_usd,
        "validation": validated,
        "drift_since": since.isoformat() if since else None,
        "expires": expires.isoformat() if expires else None,
    }
    return Outcome(OK, facts, "\n\n".join(rendered(pulumi.stack, facts, drift)))


def rendered(stack: str, facts: Mapping[str, Any], drift: str) -> list[str]:
    """Return the summary's parts."""
    title = f"### {report.code(stack)} status"
    if not facts["instances"]:
        return [title, "Nothing is rented."]
    cells = [
        (
            str(one["instance_id"]),
            report.safe(one["state"]),
            report.safe(one["answers"]),
            report.usd(one["hourly_cost_usd"]),
            report.usd(one["cost_usd"], digits=2),
            report.safe(one["contract_end"] or "-"),
            report.safe(f"{one['machine_id']} ({one['gpu']})"),
            report.code(one["url"]),
        )
        for one in facts["instances"]
    ]
    lines = [f"Model {report.safe(facts['model'])}; validation: {facts['validation']}; drift: {drift}."]
    if facts["expires"]:
        lines.append(f"Expires {facts['expires']}.")
    return [title, report.table(HEAD, cells), *lines]


def row(one: Replica, contract: Contract | None, outputs: Outputs, verify: bool | str) -> dict[str, Any]:
    """Return what is known of one instance."""
    started = contract.start_date if contract else 0.0
    age_s = max(time.time() - started, 0.0) if started else None
    return {
        "instance_id": one.instance_id,
        "machine_id": one.machine_id,
        "gpu": one.gpu,
        "url": one.url,
        "state": (contract.actual_status or "provisioning") if contract else "gone",
        "answers": answers(one.url, outputs, verify),
        "hourly_cost_usd": contract.dph_total_usd if contract else 0.0,
        "age_s": None if age_s is None else round(age_s),
        "cost_usd": None if age_s is None or contract is None else round(contract.dph_total_usd * age_s / 3600, 4),
        "contract_end": ending(contract),
    }


def ending(contract: Contract | None) -> str | None:
    """Return when the contract ends, and in how long."""
    if contract is None or not contract.end_date:
        return None
    when = datetime.fromtimestamp(contract.end_date, UTC)
    return f"{when:%Y-%m-%d %H:%M} UTC, in {minutes(max(contract.end_date - time.time(), 0))}"


def answers(url: str, outputs: Outputs, verify: bool | str) -> str:
    """Ask the server for a score; return "yes, N ms" or what came instead."""
    if not url:
        return "no address"
    client = RerankClient(url, outputs.api_key, timeout_s=PROBE_TIMEOUT_S, verify=verify)
    started = time.monotonic()
    try:
        client.rerank("ready?", ["yes"])
    except ServingError as error:
        return f"no: {error}"
    return f"yes, {(time.monotonic() - started) * 1000:.0f} ms"


@contextmanager
def trusted(outputs: Outputs) -> Iterator[bool | str]:
    """Give what `verify` has to be: the stack's own CA as a file, or True where it has none."""
    if not outputs.ca_certificate:
        yield True
        return
    with tempfile.TemporaryDirectory(prefix="ops-") as folder:
        path = Path(folder) / "ca.pem"
        path.write_text(outputs.ca_certificate)
        yield str(path)


COMMAND = Command("status", "Show what a stack runs, whether it answers, what it costs and until when.", work)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
