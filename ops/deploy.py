"""`python -m ops deploy`: run `pulumi up` and show what runs and its price. Never prints the key."""

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
    """Deploy the stack (pulumi up), and show what runs."""
    if create:
        pulumi.ensure()
    return deploy_summary(pulumi, pulumi.up())


def deploy_summary(pulumi: Pulumi, run: Run) -> Outcome:
    """Return the outcome of a successful `up`."""
    stack_tags.delete(pulumi, stack_tags.DRIFT_SINCE)
    outputs, counts, warnings = StackOutputs.parse(pulumi.outputs()), run.counts(), run.warnings()
    headline = ", ".join(f"{count} {op}d" for op, count in counts.items()) or "nothing had to change"
    parts = [
        report.running(outputs),
        report.bullets("Warnings", warnings),
        f"The key: {report.code(f'pulumi stack output api_key --show-secrets --stack {pulumi.name}')}",
    ]
    facts = {
        "changes": counts,
        "url": outputs.url,
        "model": outputs.model,
        "instances": [replica.instance_id for replica in outputs.replicas],
        "hourly_cost_usd": outputs.hourly_cost_usd,
        "validated": outputs.validated,
        "warnings": warnings,
    }
    return Outcome(OK, headline, parts, facts)
