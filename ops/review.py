"""`python -m ops review create|destroy|expire|list`: a stack per pull request, with a time to live.

A review stack's name begins with "review-"; nothing else is ever touched. When it expires is a tag of the stack, set
before anything is rented; `expire`, run every night, destroys what has expired. `create` renews it.
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
from ops.exits import LEFT, OK, USAGE, OpsError
from ops.outputs import StackOutputs

NAME = re.compile(r"review-[a-z0-9-]{1,40}")


@cli.group("review")
def review() -> None:
    """Keep a stack per pull request, with a time to live."""


@verb("create", group=review)
@click.option("--like", default="dev", show_default=True, help="Stack whose config is copied.")
@click.option("--ttl-h", type=float, default=24.0, show_default=True, help="Hours it may live.")
@click.option("--set", "words", metavar="KEY=VALUE", multiple=True, help="A config value of its own.")
def create(pulumi: Pulumi, *, like: str, ttl_h: float, words: tuple[str, ...]) -> Outcome:
    """Bring a review stack up, configured as another one is; renew it if it is there."""
    refuse_others(pulumi.name)
    values = config.assignments(words)
    if pulumi.name not in pulumi.stacks():
        pulumi.ask(pulumi.workspace.create_stack, pulumi.name)
    config.copy(Pulumi(pulumi.cwd, like), pulumi)
    config.put(pulumi, values)
    expires = datetime.now(UTC) + timedelta(hours=ttl_h)
    if not stack_tags.set_time(pulumi, stack_tags.EXPIRES, expires):
        text = "this backend keeps no tags, so nothing would end the review stack"
        raise OpsError(USAGE, text, "use another backend")
    done = deploy_summary(pulumi, pulumi.up())
    most_usd = done.facts["hourly_cost_usd"] * ttl_h
    note = f"Expires {expires:%Y-%m-%d %H:%M} UTC; until then it costs {report.usd(most_usd, digits=2)} at most."
    return replace(done, parts=[*done.parts, note], facts={**done.facts, "expires": expires.isoformat()})


@verb("destroy", group=review)
def destroy(pulumi: Pulumi) -> Outcome:
    """Destroy a review stack and remove it; nothing is there to destroy is success."""
    refuse_others(pulumi.name)
    if pulumi.name not in pulumi.stacks():
        return Outcome(OK, "no such stack, nothing to destroy", (), {"removed": False})
    return destroy_stack(pulumi, StackOutputs.parse(pulumi.outputs()), remove=True)


@verb("expire", group=review, on_stack=False)
def expire(open_stack: Open) -> Outcome:
    """Destroy each review stack whose time is over; one that fails does not keep the others."""
    now, worst = datetime.now(UTC), OK
    removed, left, failed = [], {}, {}
    for pulumi, expires in found(open_stack):
        if expires is None or expires > now:
            left[pulumi.name] = _said(expires)
            worst = worst or (OK if expires else LEFT)
            continue
        try:
            destroy_stack(pulumi, StackOutputs.parse(pulumi.outputs()), remove=True)
            removed.append(pulumi.name)
        except OpsError as error:
            print(f"error: {pulumi.name}: {error}", file=sys.stderr)
            failed[pulumi.name], worst = str(error), error.code
    parts = [
        report.bullets("Destroyed", removed),
        report.bullets("Left", (f"{name}: expires {when}" for name, when in left.items())),
        report.bullets("FAILED, and may still be billed", (f"{name}: {why}" for name, why in failed.items())),
    ]
    headline = f"{len(removed)} expired and destroyed, {len(left)} left, {len(failed)} failed"
    return Outcome(worst, headline, parts, {"removed": removed, "left": left, "failed": failed})


@verb("list", group=review, on_stack=False)
def listed(open_stack: Open) -> Outcome:
    """List the review stacks and when they expire."""
    rows = [(pulumi.name, _said(expires)) for pulumi, expires in found(open_stack)]
    parts = [report.table(("stack", "expires"), rows) if rows else ""]
    return Outcome(OK, f"{len(rows) or 'none'}", parts, {"stacks": dict(rows)})


def found(open_stack: Open) -> list[tuple[Pulumi, datetime | None]]:
    """Return each review stack of the backend, and when it expires."""
    stacks = [open_stack(name) for name in open_stack("").stacks() if NAME.fullmatch(name)]
    return [(one, stack_tags.get(one, stack_tags.EXPIRES)) for one in stacks]


def refuse_others(stack: str) -> None:
    """Raise OpsError for what is no review stack's name."""
    if not NAME.fullmatch(stack):
        raise OpsError(USAGE, f"{stack!r} is no review stack", "its name has to begin with review-, such as review-12")


def _said(expires: datetime | None) -> str:
    return expires.isoformat() if expires else "never: it has no such tag"
