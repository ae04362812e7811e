"""`python -m ops review create|destroy|expire|list`: a stack per pull request, with a time to live.

A review stack's name begins with "review-"; nothing else is ever touched. When it expires is a tag of the stack, set
before anything is rented; `expire`, run every night, destroys what has expired. `create` renews it.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from ops import config, report, stack_tags
from ops.command import Outcome, cli, verb
from ops.deploy import deploy_summary
from ops.destroy import destroy_stack
from ops.engine import Pulumi
from ops.exits import LEFT, OK, USAGE, OpsError
from ops.outputs import Outputs

PREFIX = "review-"
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
    values = config.assignments(words, pulumi.cwd / "Pulumi.yaml")
    if pulumi.name not in pulumi.stacks():
        pulumi.ask(pulumi.workspace.create_stack, pulumi.name)
    config.copy(Pulumi(pulumi.cwd, like), pulumi)
    config.put(pulumi, {f"{pulumi.project}:{key}": config.entry(value) for key, value in values.items()})
    expires = datetime.now(UTC) + timedelta(hours=ttl_h)
    if not stack_tags.set_time(pulumi, stack_tags.EXPIRES, expires):
        raise OpsError(
            USAGE, "this backend keeps no tags, so nothing would end the review stack", "use another backend"
        )
    done = deploy_summary(pulumi, pulumi.up(), "review stack")
    most_usd = done.facts["hourly_cost_usd"] * ttl_h
    note = f"Expires {expires:%Y-%m-%d %H:%M} UTC; until then it costs {report.usd(most_usd, digits=2)} at most."
    return Outcome(OK, {**done.facts, "expires": expires.isoformat()}, f"{done.markdown}\n\n{note}")


@verb("destroy", group=review)
def destroy(pulumi: Pulumi) -> Outcome:
    """Destroy a review stack and remove it; nothing is there to destroy is success."""
    refuse_others(pulumi.name)
    if pulumi.name not in pulumi.stacks():
        return Outcome(OK, {"removed": False}, f"### {report.code(pulumi.name)}: no such stack, nothing to destroy")
    return destroy_stack(pulumi, Outputs.parse(pulumi.outputs()), remove=True)


@verb("expire", group=review, on_stack=False)
def expire(cwd: Path) -> Outcome:
    """Destroy each review stack whose time is over; one that fails does not keep the others."""
    now, worst = datetime.now(UTC), OK
    removed, left, failed = [], [], []
    for pulumi, expires in found(cwd):
        if expires is None or expires > now:
            left.append({"stack": pulumi.name, "expires": expires.isoformat() if expires else None})
            worst = worst or (OK if expires else LEFT)
            continue
        try:
            destroy_stack(pulumi, Outputs.parse(pulumi.outputs()), remove=True)
            removed.append(pulumi.name)
        except OpsError as error:
            print(f"error: {pulumi.name}: {error}", file=sys.stderr)
            failed.append({"stack": pulumi.name, "error": str(error)})
            worst = error.code
    parts = [f"### review stacks: {len(removed)} expired and destroyed, {len(left)} left, {len(failed)} failed"]
    parts += report.bullets("Destroyed", removed)
    parts += report.bullets(
        "Left", (f"{one['stack']}: expires {one['expires'] or 'never: it has no such tag'}" for one in left)
    )
    parts += report.bullets("FAILED, and may still be billed", (f"{one['stack']}: {one['error']}" for one in failed))
    return Outcome(worst, {"removed": removed, "left": left, "failed": failed}, "\n\n".join(parts))


@verb("list", group=review, on_stack=False)
def listed(cwd: Path) -> Outcome:
    """List the review stacks and when they expire."""
    rows = [(pulumi.name, expires.isoformat() if expires else "never") for pulumi, expires in found(cwd)]
    text = report.table(("stack", "expires"), rows) if rows else "none"
    return Outcome(OK, {"stacks": dict(rows)}, f"### review stacks\n\n{text}")


def found(cwd: Path) -> list[tuple[Pulumi, datetime | None]]:
    """Return each review stack of the backend, and when it expires."""
    names = [name for name in Pulumi(cwd, "").stacks() if NAME.fullmatch(name)]
    stacks = [Pulumi(cwd, name) for name in names]
    return [(one, stack_tags.get(one, stack_tags.EXPIRES)) for one in stacks]


def refuse_others(stack: str) -> None:
    """Raise OpsError for what is no review stack's name."""
    if not NAME.fullmatch(stack):
        raise OpsError(
            USAGE, f"{stack!r} is no review stack", f"its name has to begin with {PREFIX}, such as {PREFIX}12"
        )
