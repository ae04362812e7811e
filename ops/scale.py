"""`python -m ops scale`: size a fleet by its load and the clock, within its config, its budget and the policy.

One run takes two samples of the servers' load, decides (components.scaling) and, where the number changes, deploys it
by an `up` as any other. The number is then in the stack's outputs, where the next deploy finds it. Nothing is done
while another update runs, one was cut off, or changes wait to be deployed, as in the midst of a roll.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click

from components.config import Config
from components.config_reading import read
from components.errors import ConfigError
from components.records import structure
from components.replica_count import count_replicas
from components.scaling import Decision, LoadTarget, Lull, Sample, ScaleLimits, Why, decide
from ops import load, report, stack_tags
from ops.command import Outcome, verb
from ops.config import texts
from ops.cost import room_usd_h
from ops.deploy import deploy_summary
from ops.drift import refuse_if_busy, undeployed
from ops.engine import Pulumi
from ops.exits import BUSY, OK, PENDING, USAGE, OpsError
from ops.fleet import Fleet, own_keys
from ops.metrics import replace_file
from ops.outputs import StackOutputs
from ops.schedule import allowed
from policy.limits import load_limits

WATCH_S = 60.0
LIMITS = "policy/limits.yaml"


@verb("scale")
@click.option(
    "--watch",
    "every_s",
    type=click.FloatRange(0, min_open=True),
    is_flag=False,
    flag_value=WATCH_S,
    metavar="SECONDS",
    help=f"Again and again, after pauses of SECONDS ({WATCH_S:g}); Ctrl-C ends it.",
)
@click.option(
    "--sample-s", type=click.FloatRange(0, min_open=True), default=15.0, show_default=True,
    help="How long each of the two samples lasts.",
)  # fmt: skip
@click.option(
    "--metrics-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.prom",
    help="Also write what was decided for Prometheus: a file for node_exporter's textfile collector.",
)  # fmt: skip
def scale(pulumi: Pulumi, *, every_s: float | None, sample_s: float, metrics_file: Path | None) -> Outcome:
    """Size a fleet by its load and its schedule: decide how many replicas there should be, and deploy that."""
    while True:
        try:
            found = scale_once(pulumi, sample_s, metrics_file)
        except OpsError as error:
            if every_s is None or error.code not in (BUSY, PENDING):  # what is passing does not end a watch
                raise
            click.echo(f"{datetime.now():%H:%M:%S} nothing was done: {error.text}", err=True)
        else:
            if every_s is None:
                return found
            click.echo(f"{datetime.now():%H:%M:%S} {found.headline}", err=True)
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            sys.exit(OK)


def scale_once(pulumi: Pulumi, sample_s: float, metrics_file: Path | None) -> Outcome:
    """Sample, decide, deploy, and write metrics. Raises OpsError: BUSY, PENDING, and whatever an `up` may end with."""
    config = config_of(pulumi)
    refuse_if_busy(pulumi)
    raw = pulumi.outputs()
    present = count_replicas(raw)
    if present is None:
        raise OpsError(USAGE, f"stack {pulumi.name} is not deployed yet", f"python -m ops deploy --stack {pulumi.name}")
    outputs, resources = StackOutputs.parse(raw), pulumi.resources(show_secrets=True)
    target = LoadTarget(in_flight=config.replicas.pairs_in_flight)
    samples = load.samples(outputs, own_keys(resources), count=target.samples, sample_s=sample_s) if present else []
    price = max((one.hourly_cost_usd for one in outputs.replicas), default=0.0)
    made = decide(samples, present, limits(pulumi, config), replica_usd_h=price, target=target, lull=lull_of(pulumi))
    facts = {"before": present, **asdict(made), "samples": [asdict(one) for one in samples]}
    there = len(Fleet.parse(resources).replicas)
    if made.replicas == there == present:
        record(pulumi, made, present, samples, metrics_file)
        return Outcome(OK, f"stays at {present}: {made.reason}", [table(samples)], {**facts, "acted": False})
    if pending := undeployed(pulumi):
        raise OpsError(
            PENDING,
            f"stack {pulumi.name} has changes that are not deployed, or is being rolled: {'; '.join(pending)}",
            "deploy them (python -m ops deploy), or let the roll end",
        )
    if count_replicas(pulumi.outputs()) != present:
        raise OpsError(BUSY, f"another run has just scaled stack {pulumi.name}: nothing was done", "decide anew")
    done = deploy_summary(pulumi, pulumi.up(replicas=made.replicas))
    record(pulumi, made, present, samples, metrics_file)
    change = f"{present} -> {made.replicas}" if made.replicas != present else f"{present}, of which {there} were there"
    parts = [table(samples), *done.parts]
    return replace(done, headline=f"{change}: {made.reason}", parts=parts, facts={**done.facts, **facts, "acted": True})


def config_of(pulumi: Pulumi) -> Config:
    """Return a stack's config as its program reads it. Raises ConfigError."""
    config, problems = read(texts(pulumi))
    if problems:
        raise ConfigError(problems)
    return config


def limits(pulumi: Pulumi, config: Config) -> ScaleLimits:
    """Return what binds a stack at this moment: schedule, budget and the policy of the project."""
    span, policy = allowed(config, datetime.now(UTC)), load_limits(pulumi.name.rpartition("/")[2], pulumi.cwd / LIMITS)
    bounds = [usd for usd in (config.max_hourly_usd, policy.max_hourly_usd) if usd is not None]
    growth = room_usd_h(pulumi) if config.budget_refuses else None
    return ScaleLimits(span.min, span.max, min(bounds, default=None), growth)


def lull_of(pulumi: Pulumi) -> Lull | None:
    """Return the lull that the last run has seen, if the backend keeps tags."""
    text = stack_tags.get_text(pulumi, stack_tags.LULL)
    return structure(Lull, json.loads(text)) if text else None


def record(pulumi: Pulumi, made: Decision, before: int, samples: Sequence[Sample], metrics_file: Path | None) -> None:
    """Keep a lull for the next run, or none, and write the metrics."""
    if made.lull:
        stack_tags.set_text(pulumi, stack_tags.LULL, json.dumps(asdict(made.lull)))
    else:
        stack_tags.delete(pulumi, stack_tags.LULL)
    if metrics_file:
        replace_file(metrics_file, exposition(pulumi.name, made, before, samples, time.time()))


def exposition(stack: str, made: Decision, before: int, samples: Sequence[Sample], at_s: float) -> str:
    """Return a run in Prometheus' text format; without samples it has no load."""
    label = f'stack="{stack}"'
    gauges: list[tuple[str, str, dict[str, float]]] = [
        ("replicas", "Replicas that the last run of ops scale decided on.", {label: made.replicas}),
        ("replicas_before", "Replicas that it found.", {label: before}),
        ("decision", "1 for why it decided so.", {f'{label},why="{one}"': one == made.why for one in get_args(Why)}),
        ("last_run_timestamp_seconds", "When it ended.", {label: at_s}),
    ]
    if samples:
        gauges += [
            ("pairs_in_flight", "Pairs in flight in all servers, in its last sample.", {label: samples[-1].in_flight}),
            ("pairs_queued", "Those of them that wait.", {label: samples[-1].queue}),
        ]
    return "".join(
        f"# HELP reranker_scale_{name} {what}\n# TYPE reranker_scale_{name} gauge\n"
        + "".join(f"reranker_scale_{name}{{{labels}}} {value:.15g}\n" for labels, value in values.items())
        for name, what, values in gauges
    )


def table(samples: Sequence[Sample]) -> str:
    """Return the samples as Markdown."""
    rows = [
        (f"{one.in_flight:.0f}", f"{one.queue:.0f}", *("-" if each is None else f"{each:.2f}" for each in
         (one.p95_s, one.pairs_per_s)))
        for one in samples
    ]  # fmt: skip
    return report.table(("pairs in flight", "queued", "p95, s", "pairs/s"), rows) if rows else ""
