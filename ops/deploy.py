"""`python -m ops deploy`: deploy what is declared, and say what runs then, at which price. Never prints the key."""

from __future__ import annotations

from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK
from ops.outputs import StackOutputs
from ops.plan import Run
from ops.preview import CREATE


@verb("deploy")
@CREATE
def deploy(pulumi: Pulumi, *, create: bool) -> Outcome:
    """Deploy what is declared (pulumi up), and say what runs then."""
    if create:
        pulumi.ensure()
    return deploy_summary(pulumi, pulumi.up())


def deploy_summary(pulumi: Pulumi, run: Run) -> Outcome:
    """Return the outcome of an up that has succeeded."""
    stack_tags.delete(pulumi, stack_tags.DRIFT_SINCE)
    outputs, changed, warnings = StackOutputs.parse(pulumi.outputs()), run.counts(), run.warnings()
    done = ", ".join(f"{count} {op}d" for op, count in changed.items()) or "nothing had to change"
    parts = [
        report.running(outputs),
        report.bullets("Warnings", warnings),
        f"The key: {report.code(f'pulumi stack output api_key --show-secrets --stack {pulumi.name}')}",
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
    return Outcome(OK, done, parts, facts)
