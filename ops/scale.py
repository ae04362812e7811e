"""`python -m ops scale`: set the number of replicas by load and schedule, within config, budget and policy.

One run takes two samples of the servers' load, decides (components.scaling) and, if the number changes, runs an `up`.
The stack's outputs store the number for the next deploy. It does nothing while an update is running or was interrupted,
or while there are undeployed changes, for example during a roll.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
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
from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.config import config_texts
from ops.cost import room_usd_h
from ops.deploy import deploy_summary
from ops.drift import refuse_if_busy, undeployed_changes
from ops.engine import Pulumi
from ops.exits import BUSY, OK, PENDING, USAGE, OpsError
from ops.fleet import Fleet, server_keys
from ops.load import take_samples
from ops.metrics import replace_file
from ops.outputs import StackOutputs
from ops.schedule import allowed
from policy.limits import load_limits

WATCH_S = 60.0
LIMITS = "policy/limits.yaml"


@verb("scale")
@click.option(
    "--watch", "every_s", type=click.FloatRange(0, min_open=True), is_flag=False, flag_value=WATCH_S, metavar="SECONDS",
    help=f"Repeat after pauses of SECONDS ({WATCH_S:g}) until Ctrl-C.",
)  # fmt: skip
@click.option(
    "--sample-s", type=click.FloatRange(0, min_open=True), default=15.0, show_default=True,
    help="Duration of each of the two samples.",
)  # fmt: skip
@click.option(
    "--metrics-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.prom",
    help="Also write the decision as metrics for node_exporter's textfile collector.",
)  # fmt: skip
def scale(pulumi: Pulumi, *, every_s: float | None, sample_s: float, metrics_file: Path | None) -> Outcome:
    """Decide the number of replicas by load and schedule, and deploy it."""
    while True:
        try:
            outcome = scale_once(pulumi, sample_s, metrics_file)
        except OpsError as error:
            if every_s is None or error.code not in (BUSY, PENDING):  # temporary errors do not end a watch
                raise
            click.echo(f"{datetime.now():%H:%M:%S} nothing was done: {error.text}", err=True)
        else:
            if every_s is None:
                return outcome
            click.echo(f"{datetime.now():%H:%M:%S} {outcome.headline}", err=True)
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            sys.exit(OK)


def scale_once(pulumi: Pulumi, sample_s: float, metrics_file: Path | None) -> Outcome:
    """Take samples, decide, deploy, and write metrics. Raises OpsError: BUSY, PENDING, or the error of an `up`."""
    config, problems = read(config_texts(pulumi))
    if problems:
        raise ConfigError(problems)
    refuse_if_busy(pulumi)
    raw = pulumi.outputs()
    current = count_replicas(raw)
    if current is None:
        raise OpsError(USAGE, f"stack {pulumi.name} is not deployed yet", f"python -m ops deploy --stack {pulumi.name}")
    outputs, resources = StackOutputs.parse(raw), pulumi.resources(show_secrets=True)
    target = LoadTarget(in_flight=config.replicas.pairs_in_flight)
    keys = server_keys(resources)
    samples = take_samples(outputs, keys, count=target.samples, sample_s=sample_s) if current else []
    price = max((replica.hourly_cost_usd for replica in outputs.replicas), default=0.0)
    stored = stack_tags.get_text(pulumi, stack_tags.LULL)  # "" if the backend has no tags
    lull = structure(Lull, json.loads(stored)) if stored else None
    decision = decide(samples, current, limits(pulumi, config), replica_usd_h=price, target=target, lull=lull)
    facts = {"before": current, **asdict(decision), "samples": [asdict(sample) for sample in samples]}
    rented = len(Fleet.parse(resources).replicas)
    if decision.replicas == rented == current:
        record(pulumi, decision, current, samples, metrics_file)
        return Outcome(OK, f"stays at {current}: {decision.reason}", [table(samples)], {**facts, "acted": False})
    if pending := undeployed_changes(pulumi):
        raise OpsError(
            PENDING,
            f"stack {pulumi.name} has undeployed changes, or a roll is running: {'; '.join(pending)}",
            "deploy them (python -m ops deploy), or wait for the roll",
        )
    if count_replicas(pulumi.outputs()) != current:
        raise OpsError(BUSY, f"another run has just scaled stack {pulumi.name}: nothing was done", "run it again")
    outcome = deploy_summary(pulumi, pulumi.up(replicas=decision.replicas))
    record(pulumi, decision, current, samples, metrics_file)
    change = (
        f"{current} -> {decision.replicas}"
        if decision.replicas != current
        else f"stays at {current}, {rented} were rented"
    )
    headline, parts = f"{change}: {decision.reason}", [table(samples), *outcome.parts]
    return replace(outcome, headline=headline, parts=parts, facts={**outcome.facts, **facts, "acted": True})


def limits(pulumi: Pulumi, config: Config) -> ScaleLimits:
    """Return a stack's current limits: schedule, budget and the project's policy."""
    span, policy = allowed(config, datetime.now(UTC)), load_limits(pulumi.short_name, pulumi.cwd / LIMITS)
    bounds = [usd for usd in (config.max_hourly_usd, policy.max_hourly_usd) if usd is not None]
    growth = room_usd_h(pulumi) if config.budget_refuses else None
    return ScaleLimits(span.min, span.max, min(bounds, default=None), growth)


def record(pulumi: Pulumi, decision: Decision, before: int, samples: Sequence[Sample], file: Path | None) -> None:
    """Store or remove the lull for the next run, and write the metrics."""
    if decision.lull:
        stack_tags.set_text(pulumi, stack_tags.LULL, json.dumps(asdict(decision.lull)))
    else:
        stack_tags.delete(pulumi, stack_tags.LULL)
    if file:
        replace_file(file, exposition(pulumi.short_name, decision, before, samples, time.time()))


def exposition(stack: str, decision: Decision, before: int, samples: Sequence[Sample], at_s: float) -> str:
    """Return a run's metrics in Prometheus' text format; without samples there are no load metrics."""
    label = f'stack="{stack}"'
    reasons = {f'{label},why="{why}"': why == decision.why for why in get_args(Why)}
    gauges: list[tuple[str, str, Mapping[str, float]]] = [
        ("replicas", "Number of replicas that the last run of ops scale decided.", {label: decision.replicas}),
        ("replicas_before", "Number of replicas before the last run.", {label: before}),
        ("decision", "1 for the reason of the last decision.", reasons),
        ("last_run_timestamp_seconds", "End of the last run.", {label: at_s}),
    ]
    if samples:
        gauges += [
            ("pairs_in_flight", "Pairs in flight on all servers, in the last sample.", {label: samples[-1].in_flight}),
            ("pairs_queued", "Pairs in flight that wait in a queue.", {label: samples[-1].queue}),
        ]
    return "".join(
        f"# HELP reranker_scale_{name} {text}\n# TYPE reranker_scale_{name} gauge\n"
        + "".join(f"reranker_scale_{name}{{{labels}}} {value:.15g}\n" for labels, value in values.items())
        for name, text, values in gauges
    )


def table(samples: Sequence[Sample]) -> str:
    rows = [
        (f"{sample.in_flight:.0f}", f"{sample.queue:.0f}",
         *("-" if value is None else f"{value:.2f}" for value in (sample.p95_s, sample.pairs_per_s)))
        for sample in samples
    ]  # fmt: skip
    return report.table(("pairs in flight", "queued", "p95, s", "pairs/s"), rows) if rows else ""
