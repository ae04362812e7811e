"""`python -m ops.drift`: whether what runs is what is declared: exit code 0 in sync, 7 not; what, why, since when.

The instance is looked at and asked for a score (that is what a preview's refresh does). First seen is kept as a tag of
the stack until it is in sync again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from components.vast.ranking import minutes
from ops import plan as plans
from ops import report
from ops.command import Command, Outcome
from ops.engine import Pulumi
from ops.exits import BUSY, DRIFT, OK, OpsError
from ops.stack_tags import DRIFT_SINCE, StackTags, utc_now


def work(pulumi: Pulumi, _args: argparse.Namespace) -> Outcome:
    """Compare. Raises OpsError, with BUSY while an update runs or was cut off."""
    run = pulumi.drift()
    plan = plans.read(run)
    tags, now = StackTags(pulumi), utc_now()
    title = f"### {report.code(pulumi.stack)} drift: "
    if run.rc == OK:
        tags.delete(DRIFT_SINCE)
        parts = [f"{title}in sync", *report.bullets("Warnings", plan.warnings)]
        return Outcome(OK, {"in_sync": True, "drift": [], "warnings": plan.warnings}, "\n\n".join(parts))
    busy(pulumi)
    since = tags.get_or_set(DRIFT_SINCE, now)
    lasted = minutes((now - since).total_seconds()) if since else ""
    seen = f"First seen {since:%Y-%m-%d %H:%M} UTC, {lasted} ago." if since else "First seen: not kept by this backend."
    parts = [
        f"{title}{'; '.join(kinds(plan)) or 'not in sync'}",
        seen,
        *report.bullets("What drifted", plan.drift),
        *report.bullets("Changed in the program or its config, and not deployed", plan.pending),
        *report.choices(plan),
        report.changes(plan),
        *report.bullets("Warnings", plan.warnings),
        remedy(plan, pulumi.stack),
    ]
    facts = {
        "in_sync": False,
        "since": since.isoformat() if since else None,
        "drift": plan.drift,
        "pending": plan.pending,
        "steps": [asdict(one) for one in plan.steps],
        "choices": [asdict(one) for one in plan.choices],
        "warnings": plan.warnings,
    }
    return Outcome(DRIFT, facts, "\n\n".join(parts))


def busy(pulumi: Pulumi) -> None:
    """Raise OpsError where the state has operations that have not ended: what a plan says then is no drift."""
    pending = (pulumi.export().get("deployment") or {}).get("pending_operations") or []
    if pending:
        kinds_ = ", ".join(sorted({str(one.get("type")) for one in pending}))
        raise OpsError(
            BUSY,
            f"stack {pulumi.stack} has an update that runs now or was cut off ({kinds_})",
            f"wait for it; if none is running, `python -m ops.deploy --stack {pulumi.stack}` adopts what was left",
        )


def kinds(plan: plans.Plan) -> list[str]:
    """Return the kinds of drift in short, and whether changes wait."""
    found = list(dict.fromkeys(one.partition(":")[0] for one in plan.drift))
    return [*found, *(["undeployed changes"] if plan.pending else [])]


def remedy(plan: plans.Plan, stack: str) -> str:
    """Return the next step."""
    if plan.pending:
        return f"Deploy what is declared: {report.code(f'python -m ops.deploy --stack {stack}')}"
    return f"Repair: {report.code(f'python -m ops.heal --stack {stack}')}"


COMMAND = Command("drift", "Say whether what runs is what is declared: what drifted, why and since when.", work)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
