"""`python -m ops market`: compare the best offers of each preference, and plot all matching offers.

Searches with a stack's config or another query, and rents nothing. It helps to choose a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import click

from components import measurements
from components.plugin.session import open_session
from components.records import structure
from components.settings import load
from components.vast.market import Search
from components.vast.ranking import Candidate, Prefer, distinct_machines, rank
from components.vllm.catalog import OWN_MODELS, load_catalog
from ops import report
from ops.command import Outcome, verb
from ops.config import config_texts
from ops.engine import Pulumi
from ops.exits import OK
from ops.market_plot import Point, Scatter
from ops.plan import Choice
from policy.limits import FILE as LIMITS
from policy.limits import load_limits

KEEP = 64  # at least so many machines are compared
PREFERENCES: Sequence[Prefer] = get_args(Prefer)
NOT_MEASURED = (
    "Pairs/s of {} are not measured on any offered GPU: `value` ranks by a relative speed, which is an assumption. "
    "`python -m bench serving --url URL --record GPU` records a measurement."
)
Ranked = Mapping[Prefer, Sequence[Candidate]]


@verb("market")
@click.option("--query", help="Search query; replaces the query of the config.")
@click.option("--top", type=click.IntRange(1, 16), default=3, show_default=True, help="Offers per preference.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the plot as a PNG.")
def market(pulumi: Pulumi, *, query: str | None, top: int, png: Path | None) -> Outcome:
    """Compare the best offers of each preference, and plot all matching offers. Rents nothing."""
    search = stack_search(pulumi, query)
    client = open_session(lambda key: pulumi.config(key) or None).client
    measured = measurements.rates_of_model(search.model, pulumi.cwd / measurements.FILE)
    candidates = search.find_candidates(client, measured=measured)
    if png:
        scatter(candidates, best(candidates, 1)).png(png)
    return summarize(candidates, best(candidates, top), search.model)


def stack_search(pulumi: Pulumi, query: str | None) -> Search:
    """Return the search of a stack's deploy, with prefer: value, so that speeds are estimated. Raises ConfigError."""
    raw = config_texts(pulumi) | ({"query": query} if query else {})
    limits = load_limits(pulumi.short_name, pulumi.cwd / "policy" / LIMITS.name)
    catalog = load_catalog(own=pulumi.cwd / OWN_MODELS)
    settings = load(raw, catalog, hub_reachable=lambda _: True, limits=limits)
    return replace(settings.search(), prefer="value", keep=KEEP)


def best(candidates: Sequence[Candidate], top: int) -> Ranked:
    """Return the best offers of each preference, at most one per machine."""
    return {prefer: distinct_machines(rank(candidates, prefer))[:top] for prefer in PREFERENCES}


def summarize(candidates: Sequence[Candidate], ranked: Ranked, model: str) -> Outcome:
    best_choices = {prefer: [_choice(candidate) for candidate in column] for prefer, column in ranked.items()}
    columns = best_choices.values()
    rows = [
        (str(index + 1), *(_cell(column[index]) if index < len(column) else "-" for column in columns))
        for index in range(max(map(len, columns)))
    ]
    choices = {choice.ask_contract_id: choice for column in columns for choice in column}
    measured = any(choice.pairs_per_s is not None for choice in choices.values())
    parts = [
        report.table(("", *ranked), rows),
        report.offer_table(list(choices.values())),
        scatter(candidates, ranked).text(),
        "" if measured else NOT_MEASURED.format(report.safe(model)),
    ]
    facts = {
        "model": model,
        "measured": measured,
        "best": {prefer: [asdict(choice) for choice in column] for prefer, column in best_choices.items()},
        "offers": [asdict(_choice(candidate)) for candidate in candidates],
    }
    return Outcome(OK, f"{report.count(len(candidates), 'offer')} to choose from", parts, facts)


def scatter(candidates: Sequence[Candidate], ranked: Ranked) -> Scatter:
    """Return the plot of all offers, with marks on the best of each preference."""
    marks: dict[int, list[str]] = {}
    for prefer, column in ranked.items():
        marks.setdefault(column[0].offer.ask_id, []).append(prefer)
    points = [
        Point(
            ready_min=candidate.ready_s / 60,
            usd_h=candidate.offer.dph_total_usd,
            speed=candidate.estimate.speed if candidate.estimate else 0.0,
            name=f"offer {candidate.offer.ask_id}, {' '.join(candidate.offer.gpu_name.split())}",
            marks=", ".join(marks.get(candidate.offer.ask_id, ())),
        )
        for candidate in candidates
    ]
    estimates = [candidate.estimate for candidate in candidates]
    return Scatter(points, any(estimate is not None and estimate.measured for estimate in estimates))


def _choice(candidate: Candidate) -> Choice:
    return structure(Choice, candidate.summary())


def _cell(choice: Choice) -> str:
    price = f"{report.usd(choice.hourly_usd)}/h"
    return f"{choice.ask_contract_id}: {report.safe(choice.gpu)}, {price}, {choice.ready_s / 60:.0f} min"
