"""`python -m ops roll`: replace a fleet's servers a few at a time, so that no more than those few are paid for twice.

Each batch is a targeted `pulumi up` of its instances, keys, validations and the gateway: the new ones serve and are
validated, the gateway sends to them and lets the old ones finish, and only then are those destroyed. After an error the
engine destroys nothing, so what the gateway sends to goes on serving.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import click

from ops import report
from ops.command import Outcome, verb
from ops.config import StackConfig, assignments, put
from ops.deploy import deploy_summary
from ops.engine import Pulumi
from ops.exits import ERROR, PENDING, USAGE, OpsError
from ops.fleet import FLEET, Fleet, batches
from ops.plan import Plan, named


@dataclass(frozen=True)
class Batch:
    """What one batch has done: its replicas, the ids that they had and have, how long it took."""

    replicas: list[str]
    before: list[int]
    after: list[int]
    took_s: float


@dataclass
class Roll:
    """Rolls of one stack: to what is declared now, and back."""

    pulumi: Pulumi
    surge: int
    done: list[Batch] = field(default_factory=list)

    def run(self, names: Sequence[str]) -> None:
        """Replace these replicas in batches. Raises OpsError of the first batch that fails."""
        fleet = Fleet.parse(self.pulumi.resources())
        rounds = batches(fleet, names, self.surge)
        for number, batch in enumerate(rounds, start=1):
            before = [fleet.replicas[name].instance_id for name in batch]
            began = time.monotonic()
            _say(f"batch {number} of {len(rounds)}: {_pairs(batch, before)}")
            self.pulumi.up(fleet.targets(batch))
            fleet = Fleet.parse(self.pulumi.resources())
            after = [fleet.replicas[name].instance_id for name in batch]
            self.done.append(Batch(batch, before, after, round(time.monotonic() - began, 1)))
            _say(f"batch {number} of {len(rounds)}: now {_pairs(batch, after)}, {self.done[-1].took_s:.0f} s")


@verb("roll")
@click.option("--surge", type=click.IntRange(min=1), default=1, show_default=True, help="How many servers at a time.")
@click.option(
    "--set", "words", multiple=True, metavar="KEY=VALUE",
    help="Write this to the stack's config first; take it back if a batch fails. Lists and maps as JSON; no secrets.",
)  # fmt: skip
def roll(pulumi: Pulumi, *, surge: int, words: tuple[str, ...]) -> Outcome:
    """Replace a fleet's servers --surge at a time, each batch validated and in the gateway before the old ones go."""
    values, config = assignments(words), StackConfig(pulumi)
    rolling = Roll(pulumi, surge)
    try:
        put(pulumi, values)
        plan = pulumi.preview().plan()
        in_place, fleet = pulumi.config("replace") == "in_place", Fleet.parse(pulumi.resources())
        names = replaced(pulumi.name, plan, fleet, in_place=in_place)
    except BaseException:  # nothing was deployed: also when it is interrupted
        if values:
            config.put_back()
        raise
    _say(f"{report.plan_line(plan)}; {report.count(len(names), 'server')} to replace, {surge} at a time")
    try:
        rolling.run(names)
        run = pulumi.up()  # what belongs to no batch, and the outputs
    except OpsError as error:
        raise roll_back(rolling, config, error) from None
    except KeyboardInterrupt:  # between two operations; during one it is passed on to pulumi
        pulumi.command.interrupted = True
        raise roll_back(rolling, config, OpsError(ERROR, "by a signal")) from None
    outcome = deploy_summary(pulumi, run)
    rows = [
        (str(number), report.safe(_pairs(one.replicas, one.before)), report.safe(_pairs(one.replicas, one.after)),
         f"{one.took_s:.0f} s")
        for number, one in enumerate(rolling.done, start=1)
    ]  # fmt: skip
    table = report.table(("batch", "was", "is", "took"), rows) if rows else ""
    headline = f"{report.count(len(names), 'server')} replaced" if rows else outcome.headline
    facts = {"batches": [asdict(one) for one in rolling.done], "config_changed": config.changed}
    parts = [*outcome.parts, table, config.commit_line()]
    return replace(outcome, headline=headline, parts=parts, facts={**outcome.facts, **facts})


def replaced(stack: str, plan: Plan, fleet: Fleet, *, in_place: bool) -> list[str]:
    """Return the replicas that a plan replaces. Raises OpsError where a roll is not what it takes."""
    if not fleet.replicas:
        raise OpsError(USAGE, f"stack {stack} has no servers yet", f"python -m ops deploy --stack {stack}")
    if fleet.stray:
        raise OpsError(
            PENDING,
            f"an earlier update was to destroy {', '.join(fleet.stray)} and did not come to it",
            f"finish that first: python -m ops deploy --stack {stack}",
        )
    # a target may depend on nothing that is not there yet; another CA would not be trusted by both halves of a fleet
    servers = [one for one in plan.touched() if one.name in fleet.replicas and one.op != "delete"]
    beyond = [one for one in plan.steps if one not in servers and one.op != "update"]
    other = sorted(f"{one.name} ({one.op})" for one in beyond if not FLEET.endswith(f":{one.type}"))
    if other:
        raise OpsError(
            PENDING,
            f"more than a roll is to be done: {', '.join(other)}",
            f"python -m ops deploy --stack {stack} does it, all at once; a roll only replaces servers",
        )
    if any("model" in one.changed for one in plan.steps if one.name in _of_one_model(fleet)):
        raise OpsError(
            USAGE,
            "another model: for the time of the roll one fleet would serve two, whose scores do not compare",
            f"python -m ops deploy --stack {stack} starts all new servers before the old ones go",
        )
    if servers and in_place:
        raise OpsError(
            USAGE,
            "with replace: in_place a server is destroyed before its successor serves",
            "add --set replace=blue_green; the roll then pays for no more than --surge servers twice",
        )
    return [one.name for one in servers]


def roll_back(roll: Roll, config: StackConfig, error: OpsError) -> OpsError:
    """Return to the old config and its servers, if this run changed the config; return what is to be raised."""
    pulumi = roll.pulumi
    serving = "No server was destroyed that has no successor" + (
        ": the gateway sends to those that were validated" if Fleet.parse(pulumi.resources()).gateway else ""
    )
    again = f"python -m ops roll --stack {pulumi.name} --surge {roll.surge} goes on where it stopped"
    if pulumi.command.interrupted or not config.changed:
        why = "interrupted" if pulumi.command.interrupted else "stopped"
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
        names = {one.name for one in pulumi.preview().plan().touched() if one.op != "delete"}
        fleet = Fleet.parse(pulumi.resources())
        roll.run([name for name, one in fleet.replicas.items() if name in names or one.left])
        pulumi.up()
    except OpsError as second:
        return OpsError(
            error.code,
            f"{error.text}; and going back failed too: {second.text}. {serving}; {config.path.name} is as it was",
            f"{second.remedy or 'put right what failed'}; then python -m ops roll --stack {pulumi.name}",
        )
    count = len(Fleet.parse(pulumi.resources()).replicas)
    return OpsError(
        error.code,
        f"{error.text}. Went back: {config.path.name} is as it was, and all {count} servers serve what they served",
        error.remedy,
    )


def _of_one_model(fleet: Fleet) -> list[str]:
    """Return the names of what takes one model of all servers: the gateway, the validation where there are several."""
    validation = [f"{fleet.name}-validation"] if len(fleet.replicas) > 1 else []
    return [*validation, *([named(fleet.gateway)] if fleet.gateway else [])]


def _pairs(names: Sequence[str], ids: Sequence[int]) -> str:
    return ", ".join(f"{name} ({id_})" for name, id_ in zip(names, ids, strict=True))


def _say(text: str) -> None:
    print(f"roll: {text}", file=sys.stderr, flush=True)
