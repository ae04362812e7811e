"""`python -m ops destroy`: give back everything a stack has; --remove takes the stack itself out of its backend too."""

from __future__ import annotations

import sys

import click

from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.outputs import Outputs


@verb("destroy")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--remove", is_flag=True, help="Remove the stack, its history and its config file too.")
def destroy(pulumi: Pulumi, *, yes: bool, remove: bool) -> Outcome:
    """Destroy everything that a stack has."""
    outputs = Outputs.parse(pulumi.outputs())
    if not yes:
        confirm(pulumi.name, outputs)
    return destroy_stack(pulumi, outputs, remove=remove)


def destroy_stack(pulumi: Pulumi, outputs: Outputs, *, remove: bool) -> Outcome:
    """Destroy a stack and say what it no longer costs. Raises OpsError."""
    deleted = pulumi.destroy().counts().get("delete", 0)
    if remove:
        pulumi.ask(pulumi.workspace.remove_stack, pulumi.name)
    ids = [one.instance_id for one in outputs.replicas]
    freed = outputs.hourly_cost_usd
    parts = [
        f"### {report.code(pulumi.name)} destroy: {deleted} resources deleted{', the stack removed' if remove else ''}"
    ]
    if ids:
        parts.append(f"Instances {', '.join(map(str, ids))} are given back; {report.usd(freed)}/h is no longer paid.")
    facts = {"deleted": deleted, "instances": ids, "freed_usd_h": freed, "removed": remove}
    return Outcome(OK, facts, "\n\n".join(parts))


def confirm(stack: str, outputs: Outputs) -> None:
    """Have the stack's name typed. Raises OpsError when it is not, or nobody is there to type it."""
    if not sys.stdin.isatty():
        raise OpsError(USAGE, f"nobody is there to confirm that {stack} is destroyed", "add --yes")
    ids = ", ".join(str(one.instance_id) for one in outputs.replicas) or "no instance"
    click.echo(f"destroys stack {stack} ({ids}, ${outputs.hourly_cost_usd:.4f}/h). Its name, to go on: ", err=True)
    if input().strip() != stack:
        raise OpsError(USAGE, "not confirmed: nothing was destroyed")
