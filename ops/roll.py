"""`python -m ops.roll`: replace a fleet's servers a few at a time, so that no more than those few are paid for twice.

Each batch is a targeted `pulumi up` of its instances, keys, validations and the gateway: the new ones serve and are
validated, the gateway sends to them and lets the old ones finish, and only then are those destroyed. After an error the
engine destroys nothing, so what the gateway sends to goes on serving.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops import plan as plans
from ops import report
from ops.command import Command, Outcome
from ops.config import StackConfig, assignments
from ops.deploy import deploy_summary
from ops.engine import Pulumi
from ops.exits import ERROR, PENDING, USAGE, OpsError
from ops.fleet import INSTANCE, Fleet, batches, named

Json = Any
COMPONENTS = "vast:index:"  # groups of resources, nothing by themselves


@dataclass(frozen=True)
class Batch:
    """What one batch has done: its replicas, the ids that they had and have, how long it took."""

    replicas: list[str]
    before: list[int]
    after: list[int]
    took_s: float

    def record(self) -> dict[str, Json]:
        """Return it for --json."""
        return {"replicas": self.replicas, "before": self.before, "after": self.after, "took_s": round(self.took_s, 1)}


@dataclass
class Roll:
    """Rolls of one stack: to what is declared now, and back."""

    pulumi: Pulumi
    surge: int
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    done: list[Batch] = field(default_factory=list)

    def run(self, names: Sequence[str]) -> None:
        """Replace these replicas in batches. Raises OpsError of the first batch that fails."""
        fleet = Fleet.parse(self.pulumi.export())
        rounds = batches(fleet, names, self.surge)
        for number, batch in enumerate(rounds, start=1):
            before = [fleet.replicas[name].instance_id for name in batch]
            began = self.clock()
            self.say(f"batch {number} of {len(rounds)}: {_pairs(batch, before)}")
            self.pulumi.up_some(fleet.targets(batch))
            fleet = Fleet.parse(self.pulumi.export())
            after = [fleet.replicas[name].instance_id for name in batch]
            self.done.append(Batch(batch, before, after, self.clock() - began))
            self.say(f"batch {number} of {len(rounds)}: now {_pairs(batch, after)}, {self.done[-1].took_s:.0f} s")


def work(pulumi: Pulumi, args: argparse.Namespace) -> Outcome:
    """Write the config, plan, roll, and go back where a batch fails. Raises OpsError."""
    if args.surge < 1:
        raise OpsError(USAGE, f"--surge is {args.surge}; accepted: 1 or more")
    values, config = assignments(args.set), StackConfig(pulumi)
    roll = Roll(pulumi, args.surge, _say)
    try:
        config.put(values)
        plan, names = planned(pulumi, config)
    except BaseException:  # nothing was deployed: also when it is interrupted
        if values:
            config.put_back()
        raise
    _say(f"{report.plan_line(plan)}; {len(names)} servers to replace, {args.surge} at a time")
    try:
        roll.run(names)
        run = pulumi.up()  # what belongs to no batch, and the outputs
    except OpsError as error:
        raise roll_back(roll, config, error) from None
    except KeyboardInterrupt:  # between two operations; during one it is passed on to pulumi
        pulumi.interrupted = True
        raise roll_back(roll, config, OpsError(ERROR, "by a signal")) from None
    outcome = deploy_summary(pulumi, run, "roll")
    parts = [outcome.markdown, *([_table(roll.done)] if roll.done else ["No server had to be replaced."])]
    if config.changed:
        parts.append(f"{report.code(config.path.name)} was changed: commit it.")
    facts = {"batches": [one.record() for one in roll.done], "config_changed": config.changed}
    return Outcome(outcome.code, {**outcome.facts, **facts}, "\n\n".join(parts))


def planned(pulumi: Pulumi, config: StackConfig) -> tuple[plans.Plan, list[str]]:
    """Plan; return the plan and the replicas that it replaces. Raises OpsError where a roll is not what it takes."""
    plan = plans.read(pulumi.preview())
    fleet = Fleet.parse(pulumi.export())
    if not fleet.replicas:
        raise OpsError(
            USAGE, f"stack {pulumi.stack} has no servers yet", f"python -m ops.deploy --stack {pulumi.stack}"
        )
    touched = [one for one in plan.steps if one.type == INSTANCE and one.op in ("create", "replace", "delete")]
    if fleet.stray:
        raise OpsError(
            PENDING,
            f"an earlier update was to destroy {', '.join(fleet.stray)} and did not come to it",
            f"finish that first: python -m ops.deploy --stack {pulumi.stack}",
        )
    # a target may depend on nothing that is not there yet; another CA would not be trusted by both halves of a fleet
    mine = [one for one in touched if one.name in fleet.replicas and one.op != "delete"]
    beyond = [one for one in plan.steps if one not in mine and one.op != "update"]
    other = sorted(f"{one.name} ({one.op})" for one in beyond if not one.type.startswith(COMPONENTS))
    if other:
        raise OpsError(
            PENDING,
            f"more than a roll is to be done: {', '.join(other)}",
            f"python -m ops.deploy --stack {pulumi.stack} does it, all at once; a roll only replaces servers",
        )
    told = tuple(f"{name}: model{sign}" for name in _told_model(fleet) for sign in (": ", " changed"))
    if any(one.startswith(told) for one in plan.pending):
        raise OpsError(
            USAGE,
            "another model: for the time of the roll one fleet would serve two, whose scores do not compare",
            f"python -m ops.deploy --stack {pulumi.stack} starts all new servers before the old ones go",
        )
    if touched and config.get("replace") == "in_place":
        raise OpsError(
            USAGE,
            "with replace: in_place a server is destroyed before its successor serves",
            "add --set replace=blue_green; the roll then pays for no more than --surge servers twice",
        )
    return plan, [one.name for one in touched]


def roll_back(roll: Roll, config: StackConfig, error: OpsError) -> OpsError:
    """Return to the old config and its servers, if this run changed the config; return what is to be raised."""
    pulumi = roll.pulumi
    serving = "No server was destroyed that has no successor" + (
        ": the gateway sends to those that were validated" if Fleet.parse(pulumi.export()).gateway else ""
    )
    again = f"python -m ops.roll --stack {pulumi.stack} --surge {roll.surge} goes on where it stopped"
    if pulumi.interrupted or not config.changed:
        why = "interrupted" if pulumi.interrupted else "stopped"
        there = ", the config as it is now" if config.changed else ""
        return OpsError(
            error.code,
            f"{why} after {len(roll.done)} batches: {error.text}. {serving}{there}",
            f"{error.remedy or 'put right what failed'}; then {again}, or put the config back to what it was and do "
            "the same: both destroy what waits for it",
        )
    _say(f"failed: {error.text}")
    _say(f"goes back: {config.path.name} as it was")
    config.put_back()
    try:
        plan = plans.read(pulumi.preview())
        fleet = Fleet.parse(pulumi.export())
        names = {one.name for one in plan.steps if one.type == INSTANCE and one.op in ("create", "replace")}
        roll.run([name for name, one in fleet.replicas.items() if name in names or one.left])
        pulumi.up()
    except OpsError as second:
        return OpsError(
            error.code,
            f"{error.text}; and going back failed too: {second.text}. {serving}; {config.path.name} is as it was",
            f"{second.remedy or 'put right what failed'}; then python -m ops.roll --stack {pulumi.stack}",
        )
    count = len(Fleet.parse(pulumi.export()).replicas)
    return OpsError(
        error.code or ERROR,
        f"{error.text}. Went back: {config.path.name} is as it was, and all {count} servers serve what they served",
        error.remedy,
    )


def flags(parser: argparse.ArgumentParser) -> None:
    """Add --surge and --set."""
    parser.add_argument("--surge", type=int, default=1, metavar="K", help="how many servers at a time (default 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="write this to the stack's config first, and take it back if a batch fails; a list as JSON; not secrets",
    )  # fmt: skip


def _told_model(fleet: Fleet) -> list[str]:
    """Return the names of what takes one model of all servers: the gateway, the validation where there are several."""
    validation = [f"{fleet.name}-validation"] if len(fleet.replicas) > 1 else []
    return [*validation, *([named(fleet.gateway)] if fleet.gateway else [])]


def _pairs(names: Sequence[str], ids: Sequence[int]) -> str:
    return ", ".join(f"{name} ({id_})" for name, id_ in zip(names, ids, strict=True))


def _table(done: Sequence[Batch]) -> str:
    rows = [
        (str(number), report.safe(_pairs(one.replicas, one.before)), report.safe(_pairs(one.replicas, one.after)),
         f"{one.took_s:.0f} s")
        for number, one in enumerate(done, start=1)
    ]  # fmt: skip
    return report.table(("batch", "was", "is", "took"), rows)


def _say(text: str) -> None:
    print(f"roll: {text}", file=sys.stderr, flush=True)


COMMAND = Command(
    "roll",
    "Replace a fleet's servers --surge at a time, each batch validated and in the gateway before the old ones go.",
    work,
    flags,
)

if __name__ == "__main__":
    sys.exit(COMMAND.main())
