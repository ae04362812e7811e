"""`python -m ops heal`: repair drift only; refused while the program or its config has undeployed changes."""

from __future__ import annotations

from dataclasses import replace

import click

from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.deploy import deploy_summary
from ops.drift import undeployed_changes, unreachable_error
from ops.engine import Pulumi
from ops.exits import OK, PENDING, OpsError
from ops.notify import Notice


@verb("heal")
@click.option("--allow-changes", is_flag=True, help="Also deploy undeployed changes of the program and its config.")
def heal(pulumi: Pulumi, *, allow_changes: bool) -> Outcome:
    """Repair drift, and nothing else."""
    plan = pulumi.preview().plan()
    if plan.in_sync and plan.unheard:
        raise unreachable_error(pulumi, plan)
    if plan.in_sync:
        stack_tags.delete(pulumi, stack_tags.DRIFT_SINCE)
        return Outcome(OK, "in sync, nothing to repair", (), {"healed": []})
    if not allow_changes and (pending := undeployed_changes(pulumi)):
        raise OpsError(
            PENDING,
            f"stack {pulumi.name} has undeployed changes: {'; '.join(pending)}",
            "deploy them (python -m ops deploy), or repair and deploy them with --allow-changes",
        )
    outcome = deploy_summary(pulumi, pulumi.up())
    parts = [*outcome.parts, report.bullets("Repaired", plan.drift), report.bullets("Unreachable", plan.unheard)]
    notice = Notice("heal", f"{'; '.join(plan.drift)}: {outcome.headline}", str(outcome.facts["instances"]))
    return replace(outcome, parts=parts, facts={"healed": plan.drift, **outcome.facts}, notices=[notice])
