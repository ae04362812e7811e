"""`python -m ops destroy`: destroy all resources of a stack; --remove also removes the stack from its backend."""

from __future__ import annotations

import sys

import click

from ops import report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.outputs import StackOutputs


@verb("destroy")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--remove", is_flag=True, help="Also remove the stack, its history and its config file.")
def destroy(pulumi: Pulumi, *, yes: bool, remove: bool) -> Outcome:
    """Destroy all resources of a stack."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not yes:
        ids = ", ".join(str(replica.instance_id) for replica in outputs.replicas) or "no instance"
        confirm(f"destroys stack {pulumi.name} ({ids}, ${outputs.hourly_cost_usd:.4f}/h)", pulumi.name)
    return destroy_stack(pulumi, outputs, remove=remove)


def destroy_stack(pulumi: Pulumi, outputs: StackOutputs, *, remove: bool) -> Outcome:
    """Destroy a stack; return the deleted resources and the $/h saved. Raises OpsError."""
    deleted = pulumi.destroy().counts().get("delete", 0)
    if remove:
        pulumi.call(pulumi.workspace.remove_stack, pulumi.name)
    ids, usd_h = [replica.instance_id for replica in outputs.replicas], outputs.hourly_cost_usd
    headline = f"{report.count(deleted, 'resource')} deleted{', the stack removed' if remove else ''}"
    instances = f"{report.count(len(ids), 'instance')} destroyed: {', '.join(map(str, ids))}"
    parts = [f"{instances}; saves {report.usd(usd_h)}/h." if ids else ""]
    facts = {"deleted": deleted, "instances": ids, "freed_usd_h": usd_h, "removed": remove}
    return Outcome(OK, headline, parts, facts)


def confirm(action: str, word: str) -> None:
    """Ask the user to type `word` before something is destroyed. Raises OpsError for another word or no terminal."""
    if not sys.stdin.isatty():
        raise OpsError(USAGE, f"no terminal to confirm on: {action}", "add --yes")
    typed = click.prompt(f"{action}. Type {word} to continue", default="", show_default=False, err=True)
    if typed.strip() != word:
        raise OpsError(USAGE, "not confirmed: nothing was destroyed")
