"""`python -m ops market`: the best offers under each preference side by side, and where they stand in the market.

Searches by a stack's config, or another query, and rents nothing: for whoever chooses a query.
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
from ops import config, report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK
from ops.market_plot import Point, Scatter
from ops.plan import Choice
from policy.limits import FILE as LIMITS
from policy.limits import load_limits

READ = 64  # so many machines are looked at, or more
PREFERENCES: Sequence[Prefer] = get_args(Prefer)
NOT_MEASURED = (
    "Pairs/s of {} are not measured on any GPU on offer: `value` ranks by a relative speed, which is an assumption. "
    "`python -m bench serving --url URL --record GPU` keeps a measurement."
)
Ranked = Mapping[Prefer, Sequence[Candidate]]


@verb("market")
@click.option("--query", help="What to look for, in the place of the config's.")
@click.option("--top", type=click.IntRange(1, 16), default=3, show_default=True, help="Offers under each preference.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the plot as a PNG.")
def market(pulumi: Pulumi, *, query: str | None, top: int, png: Path | None) -> Outcome:
    """Show the best offers under each preference side by side, and the market around them. Nothing is rented."""
    search = search_of(pulumi, query)
    client = open_session(lambda key: pulumi.config(key) or None).client
    known = measurements.rates_of_model(search.model, pulumi.cwd / measurements.FILE)
    found = search.find_candidates(client, measured=known)
    if png:
        scatter(found, best(found, 1)).png(png)
    return summary(found, best(found, top), search.model)


def search_of(pulumi: Pulumi, query: str | None) -> Search:
    """Return what a stack's deploy would search for, by value, so that speeds are estimated. Raises ConfigError."""
    raw = config.texts(pulumi) | ({"query": query} if query else {})
    limits = load_limits(pulumi.name.rpartition("/")[2], pulumi.cwd / "policy" / LIMITS.name)
    catalog = load_catalog(own=pulumi.cwd / OWN_MODELS)
    settings = load(raw, catalog, hub_reachable=lambda _: True, limits=limits)
    return replace(settings.search(), prefer="value", keep=READ)


def best(found: Sequence[Candidate], top: int) -> Ranked:
    """Return the best offers under each preference, one of each machine."""
    return {prefer: distinct_machines(rank(found, prefer))[:top] for prefer in PREFERENCES}


def summary(found: Sequence[Candidate], ranked: Ranked, model: str) -> Outcome:
    """Return the answer."""
    places = range(max(map(len, ranked.values())))
    rows = [(str(place + 1), *(_cell(ranked[prefer], place) for prefer in ranked)) for place in places]
    shown = {one.offer.ask_id: _choice(one) for each in ranked.values() for one in each}
    measured = any(one.pairs_per_s is not None for one in shown.values())
    parts = [
        report.table(("", *ranked), rows),
        report.offer_table(list(shown.values())),
        scatter(found, ranked).text(),
        "" if measured else NOT_MEASURED.format(report.safe(model)),
    ]
    facts = {
        "model": model,
        "measured": measured,
        "best": {prefer: [asdict(_choice(one)) for one in each] for prefer, each in ranked.items()},
        "offers": [asdict(_choice(one)) for one in found],
    }
    return Outcome(OK, f"{report.count(len(found), 'offer')} to choose from", parts, facts)


def scatter(found: Sequence[Candidate], ranked: Ranked) -> Scatter:
    """Return the plot of all offers, the best of each preference marked."""
    marks: dict[int, list[str]] = {}
    for prefer, each in ranked.items():
        marks.setdefault(each[0].offer.ask_id, []).append(prefer)
    points = [
        Point(
            ready_min=one.ready_s / 60,
            usd_h=one.offer.dph_total_usd,
            speed=one.estimate.speed if one.estimate else 0.0,
            name=f"offer {one.offer.ask_id}, {' '.join(one.offer.gpu_name.split())}",
            marks=", ".join(marks.get(one.offer.ask_id, ())),
        )
        for one in found
    ]
    return Scatter(points, any(one.estimate is not None and one.estimate.measured for one in found))


def _choice(one: Candidate) -> Choice:
    return structure(Choice, one.summary())


def _cell(each: Sequence[Candidate], place: int) -> str:
    if place >= len(each):
        return "-"
    one = _choice(each[place])
    return f"{one.ask_contract_id}: {report.safe(one.gpu)}, {report.usd(one.hourly_usd)}/h, {one.ready_s / 60:.0f} min"
