"""`python -m ops destroy`: give back everything a stack has; --remove takes the stack itself out of its backend too."""

from __future__ import annotations

import sys

import click

from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.outputs import StackOutputs


@verb("destroy")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--remove", is_flag=True, help="Remove the stack, its history and its config file too.")
def destroy(pulumi: Pulumi, *, yes: bool, remove: bool) -> Outcome:
    """Destroy everything that a stack has."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not yes:
        ids = ", ".join(str(one.instance_id) for one in outputs.replicas) or "no instance"
        confirm(f"destroys stack {pulumi.name} ({ids}, ${outputs.hourly_cost_usd:.4f}/h)", pulumi.name)
    return destroy_stack(pulumi, outputs, remove=remove)


def destroy_stack(pulumi: Pulumi, outputs: StackOutputs, *, remove: bool) -> Outcome:
    """Destroy a stack and say what it no longer costs. Raises OpsError."""
    deleted = pulumi.destroy().counts().get("delete", 0)
    if remove:
        pulumi.ask(pulumi.workspace.remove_stack, pulumi.name)
    ids, freed = [one.instance_id for one in outputs.replicas], outputs.hourly_cost_usd
    headline = f"{report.count(deleted, 'resource')} deleted{', the stack removed' if remove else ''}"
    given_back = f"{report.count(len(ids), 'instance')} given back: {', '.join(map(str, ids))}"
    parts = [f"{given_back}; {report.usd(freed)}/h is no longer paid." if ids else ""]
    facts = {"deleted": deleted, "instances": ids, "freed_usd_h": freed, "removed": remove}
    return Outcome(OK, headline, parts, facts)


def confirm(what: str, word: str) -> None:
    """Have a word typed before something is destroyed. Raises OpsError when it is not, or nobody is there to type."""
    if not sys.stdin.isatty():
        raise OpsError(USAGE, f"nobody is there to confirm: {what}", "add --yes")
    typed = click.prompt(f"{what}. Type {word} to go on", default="", show_default=False, err=True)
    if typed.strip() != word:
        raise OpsError(USAGE, "not confirmed: nothing was destroyed")
