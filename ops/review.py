"""`python -m ops.review create|destroy|expire|list`: a stack per pull request, with a time to live.

A review stack's name begins with "review-"; nothing else is ever touched. When it expires is a tag of the stack, set
before anything is rented; `expire`, run every night, destroys what has expired. `create` renews it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from ops import report
from ops.command import Outcome, add_output_flags, run_command
from ops.deploy import deploy_summary
from ops.destroy import destroy_stack
from ops.engine import Pulumi
from ops.exits import LEFT, OK, USAGE, OpsError, table
from ops.outputs import Outputs
from ops.project import NAMESPACE
from ops.stack_tags import EXPIRES, StackTags, utc_now

PREFIX = "review-"
NAME = re.compile(r"review-[a-z0-9-]{1,40}")


def create(args: argparse.Namespace) -> Outcome:
    """Bring a review stack up, configured as --like is. Raises OpsError."""
    pulumi = Pulumi(args.cwd, named(args.stack))
    if not pulumi.exists():
        pulumi.create()
    configure(pulumi, args.like, dict(pair.split("=", 1) for pair in args.set))
    expires = utc_now() + timedelta(hours=args.ttl_h)
    if not StackTags(pulumi).set(EXPIRES, expires):
        raise OpsError(
            USAGE, "this backend keeps no tags, so nothing would end the review stack", "use another backend"
        )
    done = deploy_summary(pulumi, pulumi.up(), "review stack")
    most_usd = done.facts["hourly_cost_usd"] * args.ttl_h
    note = f"Expires {expires:%Y-%m-%d %H:%M} UTC; until then it costs {report.usd(most_usd, digits=2)} at most."
    return Outcome(OK, {**done.facts, "expires": expires.isoformat()}, f"{done.markdown}\n\n{note}")


def configure(pulumi: Pulumi, like: str, changes: Mapping[str, str]) -> None:
    """Write the review stack's config: that of another stack, then `changes`. Raises OpsError."""
    source = pulumi.cwd / f"Pulumi.{like}.yaml"
    if not source.exists():
        raise OpsError(USAGE, f"no {source.name} to copy the config from", "--like names a stack with a config file")
    config: dict[str, Any] = yaml.safe_load(source.read_text()).get("config") or {}
    if hidden := [key for key, value in config.items() if isinstance(value, Mapping) and "secure" in value]:
        raise OpsError(
            USAGE,
            f"{source.name} holds secrets of its own ({', '.join(hidden)}), which only that stack can read",
            "give them in the environment, or make the review stack like another one",
        )
    target = pulumi.cwd / f"Pulumi.{pulumi.stack}.yaml"
    kept: dict[str, Any] = (yaml.safe_load(target.read_text()) or {}) if target.exists() else {}
    kept["config"] = config | {f"{NAMESPACE}:{key}": value for key, value in changes.items()}
    target.write_text(yaml.safe_dump(kept))


def destroy(args: argparse.Namespace) -> Outcome:
    """Destroy a review stack and remove it; nothing is there to destroy is success. Raises OpsError."""
    pulumi = Pulumi(args.cwd, named(args.stack))
    if not pulumi.exists():
        return Outcome(OK, {"removed": False}, f"### {report.code(args.stack)}: no such stack, nothing to destroy")
    return destroy_stack(pulumi, Outputs.parse(pulumi.outputs()), remove=True)


def expire(args: argparse.Namespace) -> Outcome:
    """Destroy each review stack whose time is over; one that fails does not keep the others. Raises OpsError."""
    now = utc_now()
    removed, left, failed = [], [], []
    worst = OK
    for name, expires in found(args.cwd):
        if expires is None or expires > now:
            left.append({"stack": name, "expires": expires.isoformat() if expires else None})
            worst = worst or (OK if expires else LEFT)
            continue
        pulumi = Pulumi(args.cwd, name)
        try:
            destroy_stack(pulumi, Outputs.parse(pulumi.outputs()), remove=True)
            removed.append(name)
        except OpsError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed.append({"stack": name, "error": str(error)})
            worst = error.code
    parts = [f"### review stacks: {len(removed)} expired and destroyed, {len(left)} left, {len(failed)} failed"]
    parts += report.bullets("Destroyed", removed)
    parts += report.bullets(
        "Left", (f"{one['stack']}: expires {one['expires'] or 'never: it has no such tag'}" for one in left)
    )
    parts += report.bullets("FAILED, and may still be billed", (f"{one['stack']}: {one['error']}" for one in failed))
    return Outcome(worst, {"removed": removed, "left": left, "failed": failed}, "\n\n".join(parts))


def listed(args: argparse.Namespace) -> Outcome:
    """List the review stacks and when they expire. Raises OpsError."""
    rows = [(name, expires.isoformat() if expires else "never") for name, expires in found(args.cwd)]
    text = report.table(("stack", "expires"), rows) if rows else "none"
    return Outcome(OK, {"stacks": dict(rows)}, f"### review stacks\n\n{text}")


def found(cwd: Path) -> list[tuple[str, datetime | None]]:
    """Return each review stack of the backend, and when it expires."""
    names = [name.rpartition("/")[2] for name in Pulumi(cwd, "").stacks()]
    mine = [name for name in names if NAME.fullmatch(name)]
    return [(name, StackTags(Pulumi(cwd, name)).get(EXPIRES)) for name in mine]


def named(stack: str) -> str:
    """Return a review stack's name. Raises OpsError for any other."""
    if not NAME.fullmatch(stack):
        raise OpsError(
            USAGE, f"{stack!r} is no review stack", f"its name has to begin with {PREFIX}, such as {PREFIX}12"
        )
    return stack


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.review",
        description=__doc__,
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (("create", create), ("destroy", destroy), ("expire", expire), ("list", listed)):
        one = verbs.add_parser(verb, help=(about.__doc__ or "").partition(".")[0].lower())
        if verb in ("create", "destroy"):
            one.add_argument("--stack", required=True, help=f"its name: {PREFIX}NUMBER")
        if verb == "create":
            one.add_argument("--like", default="dev", help="stack whose config file is copied (default %(default)s)")
            one.add_argument("--ttl-h", type=float, default=24.0, help="hours it may live (default %(default)s)")
            one.add_argument(
                "--set", metavar="KEY=VALUE", action="append", default=[], help="a config value of its own"
            )
        add_output_flags(one)
        one.set_defaults(work=about)
    args = parser.parse_args(argv)
    if wrong := [pair for pair in getattr(args, "set", []) if "=" not in pair]:
        parser.error(f"--set takes KEY=VALUE, not {', '.join(wrong)}")
    return run_command(f"review {args.verb}", getattr(args, "stack", ""), args, lambda: args.work(args))


if __name__ == "__main__":
    sys.exit(main())
