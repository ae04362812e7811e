"""`python -m ops roll`: replace a fleet's servers in batches, so that only one batch is paid for twice at a time.

Each batch is a targeted `pulumi up` of its instances, keys, validations and the gateway. The new servers start and are
validated, the gateway sends requests to them and drains the old servers, and then the old instances are destroyed.
After an error the engine destroys nothing, so all servers behind the gateway continue to serve.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import click

from ops import report
from ops.command import Outcome, verb
from ops.config import StackConfig, assignments, set_values
from ops.deploy import deploy_summary
from ops.engine import Pulumi
from ops.exits import ERROR, PENDING, USAGE, OpsError
from ops.fleet import FLEET, Fleet, batches
from ops.plan import Plan, urn_name


@dataclass(frozen=True)
class Batch:
    """A finished batch: its replicas, their instance ids before and after, its duration."""

    replicas: list[str]
    before: list[int]
    after: list[int]
    took_s: float


@dataclass
class Roll:
    """A rolling update of one stack, forward or back."""

    pulumi: Pulumi
    surge: int
    done: list[Batch] = field(default_factory=list)

    def run(self, names: Sequence[str]) -> None:
        """Replace these replicas in batches; raise the OpsError of the first failed batch."""
        fleet = Fleet.parse(self.pulumi.resources())
        rounds = batches(fleet, names, self.surge)
        for number, batch in enumerate(rounds, start=1):
            before = [fleet.replicas[name].instance_id for name in batch]
            start = time.monotonic()
            _log(f"batch {number} of {len(rounds)}: {_pairs(batch, before)}")
            self.pulumi.up(fleet.targets(batch))
            fleet = Fleet.parse(self.pulumi.resources())
            after = [fleet.replicas[name].instance_id for name in batch]
            self.done.append(Batch(batch, before, after, round(time.monotonic() - start, 1)))
            _log(f"batch {number} of {len(rounds)}: now {_pairs(batch, after)}, {self.done[-1].took_s:.0f} s")


@verb("roll")
@click.option("--surge", type=click.IntRange(min=1), default=1, show_default=True, help="How many servers at a time.")
@click.option(
    "--set", "words", multiple=True, metavar="KEY=VALUE",
    help="Set a config value first, and restore the config if a batch fails. Lists and maps as JSON; no secrets.",
)  # fmt: skip
def roll(pulumi: Pulumi, *, surge: int, words: tuple[str, ...]) -> Outcome:
    """Replace a fleet's servers --surge at a time; validate each batch and add it to the gateway before the next."""
    values, config = assignments(words), StackConfig(pulumi)
    rolling = Roll(pulumi, surge)
    try:
        set_values(pulumi, values)
        plan = pulumi.preview().plan()
        in_place, fleet = pulumi.config("replace") == "in_place", Fleet.parse(pulumi.resources())
        names = replicas_to_replace(pulumi.name, plan, fleet, in_place=in_place)
    except BaseException:  # nothing is deployed yet, also after an interrupt
        if values:
            config.restore()
        raise
    _log(f"{report.plan_line(plan)}; {report.count(len(names), 'server')} to replace, {surge} at a time")
    try:
        rolling.run(names)
        run = pulumi.up()  # the resources outside the batches, and the outputs
    except OpsError as error:
        raise roll_back(rolling, config, error) from None
    except KeyboardInterrupt:  # between two operations; during one, the signal is forwarded to pulumi
        pulumi.command.interrupted = True
        raise roll_back(rolling, config, OpsError(ERROR, "by a signal")) from None
    outcome = deploy_summary(pulumi, run)
    rows = [
        (str(number), report.safe(_pairs(batch.replicas, batch.before)),
         report.safe(_pairs(batch.replicas, batch.after)), f"{batch.took_s:.0f} s")
        for number, batch in enumerate(rolling.done, start=1)
    ]  # fmt: skip
    table = report.table(("batch", "before", "after", "took"), rows) if rows else ""
    headline = f"{report.count(len(names), 'server')} replaced" if rows else outcome.headline
    facts = {"batches": [asdict(batch) for batch in rolling.done], "config_changed": config.is_changed}
    parts = [*outcome.parts, table, config.commit_line()]
    return replace(outcome, headline=headline, parts=parts, facts={**outcome.facts, **facts})


def replicas_to_replace(stack: str, plan: Plan, fleet: Fleet, *, in_place: bool) -> list[str]:
    """Return the replicas that a plan replaces. Raises OpsError if a roll cannot apply the plan."""
    if not fleet.replicas:
        raise OpsError(USAGE, f"stack {stack} has no servers yet", f"python -m ops deploy --stack {stack}")
    if fleet.pending_delete:
        raise OpsError(
            PENDING,
            f"an earlier update did not destroy {', '.join(fleet.pending_delete)}",
            f"finish that first: python -m ops deploy --stack {stack}",
        )
    # a target cannot depend on a resource that does not exist yet; half of the fleet would not trust a new CA
    steps = [step for step in plan.instance_steps() if step.name in fleet.replicas and step.op != "delete"]
    others = [step for step in plan.steps if step not in steps and step.op != "update"]
    if names := sorted(f"{step.name} ({step.op})" for step in others if not FLEET.endswith(f":{step.type}")):
        raise OpsError(
            PENDING,
            f"a roll only replaces servers, and the plan also changes: {', '.join(names)}",
            f"python -m ops deploy --stack {stack} applies all changes at once",
        )
    # the gateway, and the validation of several servers, take one model for all servers
    single_model = {f"{fleet.name}-validation"} if len(fleet.replicas) > 1 else set()
    single_model |= {urn_name(fleet.gateway)} if fleet.gateway else set()
    if any("model" in step.changed for step in plan.steps if step.name in single_model):
        raise OpsError(
            USAGE,
            "another model: during the roll, one fleet would serve two models, whose scores are not comparable",
            f"python -m ops deploy --stack {stack} starts all new servers before it destroys the old ones",
        )
    if steps and in_place:
        raise OpsError(
            USAGE,
            "with replace: in_place, a server is destroyed before its replacement serves",
            "add --set replace=blue_green; the roll then pays for at most --surge servers twice",
        )
    return [step.name for step in steps]


def roll_back(roll: Roll, config: StackConfig, error: OpsError) -> OpsError:
    """Restore the config and its servers, if this run changed the config; return the error to raise."""
    pulumi = roll.pulumi
    has_gateway = Fleet.parse(pulumi.resources()).gateway
    serving = "No server was destroyed before its replacement was ready" + (
        ": the gateway sends requests to validated servers" if has_gateway else ""
    )
    if pulumi.command.interrupted or not config.is_changed:
        why = "interrupted" if pulumi.command.interrupted else "stopped"
        note = "; the config stays changed" if config.is_changed else ""
        return OpsError(
            error.code,
            f"{why} after {len(roll.done)} batches: {error.text}. {serving}{note}",
            f"{error.remedy or 'fix the failure'}; then run python -m ops roll --stack {pulumi.name} --surge "
            f"{roll.surge} to continue, or restore the config and run the same command to go back; both destroy "
            "replaced instances",
        )
    _log(f"failed: {error.text}")
    _log(f"rolling back: {config.path.name} is restored")
    config.restore()
    try:
        names = {step.name for step in pulumi.preview().plan().instance_steps() if step.op != "delete"}
        fleet = Fleet.parse(pulumi.resources())
        roll.run([name for name, row in fleet.replicas.items() if name in names or row.pending_delete])
        pulumi.up()
    except OpsError as second:
        return OpsError(
            error.code,
            f"{error.text}; the rollback failed too: {second.text}. {serving}; {config.path.name} is restored",
            f"{second.remedy or 'fix the failure'}; then python -m ops roll --stack {pulumi.name}",
        )
    count = len(Fleet.parse(pulumi.resources()).replicas)
    return OpsError(
        error.code,
        f"{error.text}. Rolled back: {config.path.name} is restored, and all {count} servers have the old config",
        error.remedy,
    )


def _pairs(names: Sequence[str], ids: Sequence[int]) -> str:
    return ", ".join(f"{name} ({id_})" for name, id_ in zip(names, ids, strict=True))


def _log(text: str) -> None:
    print(f"roll: {text}", file=sys.stderr, flush=True)
