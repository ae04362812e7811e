"""`python -m ops drift`: whether what runs is what is declared: exit code 0 in sync, 7 not; what, why, since when.

Two previews tell drift from a change that is not deployed: one after a refresh, which looks at the instances and asks
them for a score, and one without, in which only the program or its config can differ. First seen is kept as a tag of
the stack until it is in sync again.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from components.vast.ranking import minutes
from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import BUSY, DRIFT, OK, OpsError
from ops.notify import Notice, terms
from ops.plan import Plan


@verb("drift")
def drift(pulumi: Pulumi) -> Outcome:
    """Say whether what runs is what is declared: what drifted, why and since when."""
    plan = pulumi.preview().plan()
    if plan.in_sync and plan.unheard:
        raise silence(pulumi, plan)
    if plan.in_sync:
        stack_tags.delete(pulumi, stack_tags.DRIFT_SINCE)
        return Outcome(OK, "in sync", report.changes(plan), {"in_sync": True, **asdict(plan)}, terms(plan))
    refuse_if_busy(pulumi)
    pending, since, now = undeployed(pulumi), stack_tags.get(pulumi, stack_tags.DRIFT_SINCE), datetime.now(UTC)
    if since is None and stack_tags.set_time(pulumi, stack_tags.DRIFT_SINCE, now):
        since = now
    lasted = minutes((now - since).total_seconds()) if since else ""
    kinds = dict.fromkeys(one.partition(":")[0] for one in plan.drift)
    remedy = "Deploy what is declared: `python -m ops deploy" if pending else "Repair: `python -m ops heal"
    parts = [
        f"First seen {since:%Y-%m-%d %H:%M} UTC, {lasted} ago." if since else "First seen: not kept by this backend.",
        report.bullets("What drifted", plan.drift),
        report.bullets("Nothing is heard of", plan.unheard),
        report.bullets("Changed in the program or its config, and not deployed", pending),
        *report.changes(plan),
        f"{remedy} --stack {pulumi.name}`",
    ]
    facts = {"in_sync": False, "since": since.isoformat() if since else None, **asdict(plan), "pending": pending}
    headline = "; ".join([*kinds, *(["undeployed changes"] if pending else [])]) or "not in sync"
    what = [*plan.drift, *pending] or [headline]
    began = since.isoformat(timespec="seconds") if since else ""  # as the tag has it
    key = " ".join([began, *sorted(f"{one.op} {one.name}" for one in plan.steps)])
    return Outcome(DRIFT, headline, parts, facts, [Notice("drift", "; ".join(what), key), *terms(plan)])


def silence(pulumi: Pulumi, plan: Plan) -> OpsError:
    """Return the error that tells of servers of which nothing is heard, where all else is in sync."""
    servers = report.count(len(plan.unheard), "server")
    return OpsError(
        BUSY,
        f"nothing is heard of {servers} of stack {pulumi.name}, which may be this machine's own network: "
        f"{'; '.join(plan.unheard)}",
        "look from another place, or set heal_on: unreachable to have them replaced by `python -m ops heal`",
    )


def undeployed(pulumi: Pulumi) -> list[str]:
    """Return what the program or its config changes and no update has deployed, in words. Raises OpsError."""
    return list(pulumi.preview(refresh=False).plan().pending)


def refuse_if_busy(pulumi: Pulumi) -> None:
    """Raise OpsError where the state has operations that have not ended: what a plan says then is no drift."""
    if pending := pulumi.export().get("pending_operations"):
        kinds = ", ".join(sorted({str(one.get("type")) for one in pending}))
        raise OpsError(
            BUSY,
            f"stack {pulumi.name} has an update that runs now or was cut off ({kinds})",
            f"wait for it; if none is running, `python -m ops deploy --stack {pulumi.name}` adopts what was left",
        )
