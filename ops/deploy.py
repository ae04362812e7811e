"""`python -m ops.deploy`: deploy what is declared, and say what runs then, at which price. Never prints the key."""

from __future__ import annotations

import argparse
import sys

from ops import report
from ops.command import Command, Outcome
from ops.engine import Pulumi
from ops.exits import OK
from ops.outputs import Outputs
from ops.plan import REPLACED
from ops.run import Run
from ops.stack_tags import DRIFT_SINCE, StackTags

CREATE = "make the stack in its backend if it is not there; it needs a config file"


def work(pulumi: Pulumi, args: argparse.Namespace) -> Outcome:
    """Bring the stack up. Raises OpsError."""
    if args.create:
        pulumi.ensure()
    run = pulumi.up()
    return deploy_summary(pulumi, run, "deploy")


def deploy_summary(pulumi: Pulumi, run: Run, title: str) -> Outcome:
    """Return the outcome of an up that has succeeded."""
    StackTags(pulumi).delete(DRIFT_SINCE)
    outputs = Outputs.parse(pulumi.outputs())
    changed = counts(run)
    warnings = [text for text in run.diagnostics("warning") if not text.startswith(REPLACED)]
    said = ", ".join(f"{count} {op}d" for op, count in changed.items()) or "nothing had to change"
    parts = [
        f"### {report.code(pulumi.stack)} {title}: {said}",
        report.running(outputs),
        *report.bullets("Warnings", warnings),
        f"The key: {report.code(f'pulumi stack output api_key --show-secrets --stack {pulumi.stack}')}",
    ]
    facts = {
        "changes": changed,
        "url": outputs.url,
        "model": outputs.model,
        "instances": [one.instance_id for one in outputs.replicas],
        "hourly_cost_usd": outputs.hourly_cost_usd,
        "validated": outputs.validated,
        "warnings": warnings,
    }
    return Outcome(OK, facts, "\n\n".join(parts))


def counts(run: Run) -> dict[str, int]:
    """Return what an operation did, by kind, from its closing event."""
    for one in reversed(run.events):
        if "summaryEvent" in one:
            found = one["summaryEvent"].get("resourceChanges") or {}
            return {op: int(found[op]) for op in ("create", "update", "replace", "delete") if found.get(op)}
    return {}


COMMAND = Command(
    "deploy",
    "Deploy what is declared (pulumi up), and say what runs then.",
    work,
    lambda parser: parser.add_argument("--create", action="store_true", help=CREATE),
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
