"""`python -m ops.destroy`: give back everything a stack has; --remove takes the stack itself out of its backend too."""

from __future__ import annotations

import argparse
import sys

from ops import report
from ops.command import Command, Outcome
from ops.deploy import counts
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.outputs import Outputs


def work(pulumi: Pulumi, args: argparse.Namespace) -> Outcome:
    """Destroy, after asking. Raises OpsError."""
    outputs = Outputs.parse(pulumi.outputs())
    if not args.yes:
        confirm(pulumi.stack, outputs)
    return destroy_stack(pulumi, outputs, remove=args.remove)


def destroy_stack(pulumi: Pulumi, outputs: Outputs, *, remove: bool) -> Outcome:
    """Destroy a stack and say what it no longer costs. Raises OpsError."""
    changed = counts(pulumi.destroy())
    if remove:
        pulumi.ask("stack", "rm", "--yes")
    freed = outputs.hourly_cost_usd
    ids = [one.instance_id for one in outputs.replicas]
    said = f"{changed.get('delete', 0)} resources deleted{', the stack removed' if remove else ''}"
    parts = [f"### {report.code(pulumi.stack)} destroy: {said}"]
    if ids:
        parts.append(f"Instances {', '.join(map(str, ids))} are given back; {report.usd(freed)}/h is no longer paid.")
    facts = {"deleted": changed.get("delete", 0), "instances": ids, "freed_usd_h": freed, "removed": remove}
    return Outcome(OK, facts, "\n\n".join(parts))


def confirm(stack: str, outputs: Outputs) -> None:
    """Have the stack's name typed. Raises OpsError when it is not, or nobody is there to type it."""
    if not sys.stdin.isatty():
        raise OpsError(USAGE, f"nobody is there to confirm that {stack} is destroyed", "add --yes")
    ids = ", ".join(str(one.instance_id) for one in outputs.replicas) or "no instance"
    print(f"destroys stack {stack} ({ids}, ${outputs.hourly_cost_usd:.4f}/h). Its name, to go on: ", file=sys.stderr)
    if input().strip() != stack:
        raise OpsError(USAGE, "not confirmed: nothing was destroyed")


def flags(parser: argparse.ArgumentParser) -> None:
    """Add --yes and --remove."""
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--remove", action="store_true", help="remove the stack, its history and its config file too")


COMMAND = Command("destroy", "Destroy everything that a stack has.", work, flags)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
