"""`python -m ops review create|destroy|expire|list`: a stack per pull request, with a time to live.

A review stack's name begins with "review-"; other stacks are refused. A tag of the stack stores its expiry time and is
set before anything is rented. `expire`, run every night, destroys expired review stacks; `create` renews one.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import click

from ops import config, report, stack_tags
from ops.command import Open, Outcome, cli, verb
from ops.deploy import deploy_summary
from ops.destroy import destroy_stack
from ops.engine import Pulumi
from ops.exits import OK, ORPHANS, USAGE, OpsError
from ops.outputs import StackOutputs

NAME = re.compile(r"review-[a-z0-9-]{1,40}")


@cli.group("review")
def review() -> None:
    """Keep a stack per pull request, with a time to live."""


@verb("create", group=review)
@click.option("--like", default="dev", show_default=True, help="Copy the config of this stack.")
@click.option("--ttl-h", type=float, default=24.0, show_default=True, help="Hours until it expires.")
@click.option("--set", "words", metavar="KEY=VALUE", multiple=True, help="Set a config value of the review stack.")
def create(pulumi: Pulumi, *, like: str, ttl_h: float, words: tuple[str, ...]) -> Outcome:
    """Deploy a review stack with the config of another stack; renew it if it exists."""
    refuse_others(pulumi.name)
    values = config.assignments(words)
    if pulumi.name not in pulumi.stacks():
        pulumi.call(pulumi.workspace.create_stack, pulumi.name)
    config.copy(Pulumi(pulumi.cwd, like), pulumi)
    config.set_values(pulumi, values)
    expires = datetime.now(UTC) + timedelta(hours=ttl_h)
    if not stack_tags.set_time(pulumi, stack_tags.EXPIRES, expires):
        raise OpsError(USAGE, "this backend has no tags, so the review stack would never expire", "use another backend")
    outcome = deploy_summary(pulumi, pulumi.up())
    max_usd = outcome.facts["hourly_cost_usd"] * ttl_h
    note = f"Expires {expires:%Y-%m-%d %H:%M} UTC; until then it costs at most {report.usd(max_usd, digits=2)}."
    return replace(outcome, parts=[*outcome.parts, note], facts={**outcome.facts, "expires": expires.isoformat()})


@verb("destroy", group=review)
def destroy(pulumi: Pulumi) -> Outcome:
    """Destroy and remove a review stack; succeed if it does not exist."""
    refuse_others(pulumi.name)
    if pulumi.name not in pulumi.stacks():
        return Outcome(OK, "no such stack, nothing to destroy", (), {"removed": False})
    return destroy_stack(pulumi, StackOutputs.parse(pulumi.outputs()), remove=True)


@verb("expire", group=review, on_stack=False)
def expire(open_stack: Open) -> Outcome:
    """Destroy every expired review stack; continue after a failure."""
    now, worst = datetime.now(UTC), OK
    removed, remaining, failed = [], {}, {}
    for pulumi, expires in review_stacks(open_stack):
        if expires is None or expires > now:
            remaining[pulumi.name] = _expiry_text(expires)
            worst = worst or (OK if expires else ORPHANS)
            continue
        try:
            destroy_stack(pulumi, StackOutputs.parse(pulumi.outputs()), remove=True)
            removed.append(pulumi.name)
        except OpsError as error:
            print(f"error: {pulumi.name}: {error}", file=sys.stderr)
            failed[pulumi.name], worst = str(error), error.code
    parts = [
        report.bullets("Destroyed", removed),
        report.bullets("Not destroyed", (f"{name}: expires {when}" for name, when in remaining.items())),
        report.bullets("FAILED, and may still be billed", (f"{name}: {why}" for name, why in failed.items())),
    ]
    headline = f"{len(removed)} expired and destroyed, {len(remaining)} not destroyed, {len(failed)} failed"
    return Outcome(worst, headline, parts, {"removed": removed, "left": remaining, "failed": failed})


@verb("list", group=review, on_stack=False)
def list_stacks(open_stack: Open) -> Outcome:
    """List the review stacks and their expiry times."""
    rows = [(pulumi.name, _expiry_text(expires)) for pulumi, expires in review_stacks(open_stack)]
    parts = [report.table(("stack", "expires"), rows) if rows else ""]
    return Outcome(OK, f"{len(rows) or 'none'}", parts, {"stacks": dict(rows)})


def review_stacks(open_stack: Open) -> list[tuple[Pulumi, datetime | None]]:
    """Return the review stacks of the backend with their expiry times."""
    stacks = [open_stack(name) for name in open_stack("").stacks() if NAME.fullmatch(name)]
    return [(stack, stack_tags.get_time(stack, stack_tags.EXPIRES)) for stack in stacks]


def refuse_others(stack: str) -> None:
    """Raise OpsError unless this is a review stack's name."""
    if not NAME.fullmatch(stack):
        raise OpsError(USAGE, f"{stack!r} is not a review stack", "its name must begin with review-, such as review-12")


def _expiry_text(expires: datetime | None) -> str:
    return expires.isoformat() if expires else "never: it has no expiry tag"
