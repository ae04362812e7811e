"""`python -m ops.heal`: repair what drifted, and only that: refused while changes of the program or config wait."""

from __future__ import annotations

import argparse
import sys

from ops import plan as plans
from ops import report
from ops.command import Command, Outcome
from ops.deploy import deploy_summary
from ops.engine import Pulumi
from ops.exits import OK, PENDING, OpsError
from ops.stack_tags import DRIFT_SINCE, StackTags

ALLOW = "deploy undeployed changes of the program and its config as well"


def work(pulumi: Pulumi, args: argparse.Namespace) -> Outcome:
    """Plan, then bring up if the plan only repairs. Raises OpsError, with PENDING where it does more."""
    plan = plans.read(pulumi.preview())
    if plan.in_sync:
        StackTags(pulumi).delete(DRIFT_SINCE)
        return Outcome(OK, {"healed": []}, f"### {report.code(pulumi.stack)} heal: in sync, nothing to repair")
    if plan.pending and not args.allow_changes:
        raise OpsError(
            PENDING,
            f"stack {pulumi.stack} has changes that are not deployed: {'; '.join(plan.pending)}",
            "deploy them (python -m ops.deploy), or repair with them by --allow-changes",
        )
    done = deploy_summary(pulumi, pulumi.up(), "heal")
    parts = [done.markdown, *report.bullets("Repaired", plan.drift)]
    return Outcome(OK, {"healed": plan.drift, **done.facts}, "\n\n".join(parts))


COMMAND = Command(
    "heal",
    "Repair what drifted, and nothing else.",
    work,
    lambda parser: parser.add_argument("--allow-changes", action="store_true", help=ALLOW),
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
