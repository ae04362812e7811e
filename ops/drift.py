"""`python -m ops drift`: compare the running instances with the declared ones. Exit code 0: in sync; 7: not.

Two previews separate drift from undeployed changes. The first refreshes: it reads the instances and requests a score
from each server. The second does not refresh, so it contains only changes of the program or its config. A tag of the
stack stores when drift was first seen, until the stack is in sync again.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from components.vast.ranking import minutes
from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import BUSY, DRIFT, OK, OpsError
from ops.notify import Notice, contract_notices
from ops.plan import Plan


@verb("drift")
def drift(pulumi: Pulumi) -> Outcome:
    """Show drift: what differs from the declared state, why, and since when."""
    plan = pulumi.preview().plan()
    if plan.in_sync and plan.unheard:
        raise unreachable_error(pulumi, plan)
    if plan.in_sync:
        stack_tags.delete(pulumi, stack_tags.DRIFT_SINCE)
        return Outcome(OK, "in sync", report.changes(plan), {"in_sync": True, **asdict(plan)}, contract_notices(plan))
    refuse_if_busy(pulumi)
    pending, now = undeployed_changes(pulumi), datetime.now(UTC)
    since = stack_tags.get_time(pulumi, stack_tags.DRIFT_SINCE)
    if since is None and stack_tags.set_time(pulumi, stack_tags.DRIFT_SINCE, now):
        since = now
    age = minutes((now - since).total_seconds()) if since else ""
    kinds = dict.fromkeys(text.partition(":")[0] for text in plan.drift)
    remedy = "Deploy the changes: `python -m ops deploy" if pending else "Repair: `python -m ops heal"
    parts = [
        f"First seen {since:%Y-%m-%d %H:%M} UTC, {age} ago." if since else "First seen: not stored by this backend.",
        report.bullets("Drift", plan.drift),
        report.bullets("Unreachable", plan.unheard),
        report.bullets("Undeployed changes of the program or its config", pending),
        *report.changes(plan),
        f"{remedy} --stack {pulumi.name}`",
    ]
    facts = {"in_sync": False, "since": since.isoformat() if since else None, **asdict(plan), "pending": pending}
    headline = "; ".join([*kinds, *(["undeployed changes"] if pending else [])]) or "not in sync"
    text = "; ".join([*plan.drift, *pending]) or headline
    start = since.isoformat(timespec="seconds") if since else ""  # the tag has no fraction of a second
    key = " ".join([start, *sorted(f"{step.op} {step.name}" for step in plan.steps)])
    return Outcome(DRIFT, headline, parts, facts, [Notice("drift", text, key), *contract_notices(plan)])


def unreachable_error(pulumi: Pulumi, plan: Plan) -> OpsError:
    """Return the error for servers that cannot be reached while everything else is in sync."""
    servers = report.count(len(plan.unheard), "server")
    return OpsError(
        BUSY,
        f"{servers} of stack {pulumi.name} cannot be reached; the cause may be this machine's network: "
        f"{'; '.join(plan.unheard)}",
        "check from another network, or set heal_on: unreachable so that `python -m ops heal` replaces them",
    )


def undeployed_changes(pulumi: Pulumi) -> list[str]:
    """Return the undeployed changes of the program or its config as texts. Raises OpsError."""
    return list(pulumi.preview(refresh=False).plan().pending)


def refuse_if_busy(pulumi: Pulumi) -> None:
    """Raise OpsError if the state has pending operations: differences in a plan are then no drift."""
    if pending := pulumi.export().get("pending_operations"):
        types = ", ".join(sorted({str(operation.get("type")) for operation in pending}))
        raise OpsError(
            BUSY,
            f"stack {pulumi.name} has an update that is running or was interrupted ({types})",
            f"wait for it; if none is running, `python -m ops deploy --stack {pulumi.name}` adopts its instances",
        )
