"""`python -m ops heal`: repair what drifted, and only that: refused while changes of the program or config wait."""

from __future__ import annotations

from dataclasses import replace

import click

from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.deploy import deploy_summary
from ops.drift import silence, undeployed
from ops.engine import Pulumi
from ops.exits import OK, PENDING, OpsError
from ops.notify import Notice


@verb("heal")
@click.option("--allow-changes", is_flag=True, help="Deploy undeployed changes of the program and its config as well.")
def heal(pulumi: Pulumi, *, allow_changes: bool) -> Outcome:
    """Repair what drifted, and nothing else."""
    plan = pulumi.preview().plan()
    if plan.in_sync and plan.unheard:
        raise silence(pulumi, plan)
    if plan.in_sync:
        stack_tags.delete(pulumi, stack_tags.DRIFT_SINCE)
        return Outcome(OK, "in sync, nothing to repair", (), {"healed": []})
    if not allow_changes and (pending := undeployed(pulumi)):
        raise OpsError(
            PENDING,
            f"stack {pulumi.name} has changes that are not deployed: {'; '.join(pending)}",
            "deploy them (python -m ops deploy), or repair with them by --allow-changes",
        )
    done = deploy_summary(pulumi, pulumi.up())
    silent = report.bullets("Nothing is heard of", plan.unheard)
    parts = [*done.parts, report.bullets("Repaired", plan.drift), silent]
    healed = Notice("heal", f"{'; '.join(plan.drift)}: {done.headline}", str(done.facts["instances"]))
    return replace(done, parts=parts, facts={"healed": plan.drift, **done.facts}, notices=[healed])
