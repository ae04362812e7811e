"""Searches the market: from the user's query to ranked candidates, or to the reason why no offer fits.

Used by the OfferQuery resource, and by a rental that searches again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice

from components.errors import NoOffer
from components.vast.client import Page, VastClient
from components.vast.json_values import Json, as_text
from components.vast.models import Offer
from components.vast.query import Constraint, OfferType, Query, describe, parse, unmet_conditions, value_of
from components.vast.ranking import START_S, Candidate, Prefer, distinct_machines, rank
from components.vast.throughput import estimate_speeds

ONE_PAGE_KEEP = 16  # one page is enough for this many candidates
COUNTRY_ALIASES = {"uk": "gb", "el": "gr"}  # common abbreviation -> ISO code
MARKET_PAGES = 4  # pages read to explain why no offer fits
NO_SPEEDS: Mapping[str, float] = {}


@dataclass(frozen=True)
class Search:
    """A search, and the order of its results.

    `query`: the official CLI's syntax, or {field: {operator: value}}. `constraints`: conditions of the deployment.
    `pull_gb`: size of the download; `disk_gb`: disk included in prices. `keep`: maximum number of candidates.
    `model`: the model for speed estimates, with `parameters_m` million parameters; "" for no estimates.
    """

    query: str | Mapping[str, Json] | None
    disk_gb: float
    pull_gb: float
    constraints: tuple[Constraint, ...] = ()
    prefer: Prefer = "balanced"
    offer_type: OfferType = "on-demand"
    start_s: float = START_S
    keep: int = 8
    model: str = ""
    parameters_m: float = 0.0

    def key(self) -> str:
        """Return text that is equal for equal searches."""
        return as_text([self.to_query().body(), self.prefer, self.pull_gb, self.start_s, self.keep, self.model])

    def to_query(self) -> Query:
        """Return the query for the API. Raises QueryError."""
        query = Query(parse(self.query), offer_type=self.offer_type, allocated_storage_gb=self.disk_gb)
        return query.with_constraints(self.constraints)

    def run(
        self, client: VastClient, *, measured: Mapping[str, float] = NO_SPEEDS, now: Callable[[], float] = time.time
    ) -> Sequence[Candidate]:
        """Return the best candidates in order, one per machine; see `find_candidates`."""
        candidates = self.find_candidates(client, measured=measured, now=now)
        return distinct_machines(rank(candidates, self.prefer))[: self.keep]

    def find_candidates(
        self, client: VastClient, *, measured: Mapping[str, float] = NO_SPEEDS, now: Callable[[], float] = time.time
    ) -> list[Candidate]:
        """Return all offers that fit, in no order. `measured`: pairs/s of the model by GPU.
        Raises NoOffer with the number of offers that each condition removes, QueryError, ApiError."""
        query = self.to_query()
        offers = self._search(client, query)
        offers = [offer for offer in offers if not unmet_conditions(query.filters, offer.raw, now=now())]
        if not offers:
            market, capped, unreadable = self._market(client)
            skipped = f"; {unreadable} more cannot be read, and were left out" if unreadable else ""
            why = explain_no_offer(query, market, now=now(), capped=capped, constraints=self.constraints)
            raise NoOffer(f"no offer fits: {why}{skipped}")
        candidates = [Candidate.of(offer, self.pull_gb, self.start_s) for offer in offers]
        if not self.model or not (measured or self.prefer == "value"):
            return candidates
        speeds = estimate_speeds(offers, self.parameters_m, measured)
        return [replace(item, estimate=speed) for item, speed in zip(candidates, speeds, strict=True)]

    def _search(self, client: VastClient, query: Query) -> Sequence[Offer]:
        """Return the first page of the query's offers; also the cheapest ones, page by page, for a large `keep`."""
        first_page = client.search(query)
        offers = {offer.ask_id: offer for offer in first_page.offers}
        if self.keep > ONE_PAGE_KEEP and first_page.is_full:
            for page in _pages(client, query):
                offers.update((offer.ask_id, offer) for offer in page.offers if offer.ask_id not in offers)
                if len({offer.machine_id for offer in offers.values()}) >= 2 * self.keep:
                    break
        return list(offers.values())

    def _market(self, client: VastClient) -> tuple[list[Offer], bool, int]:
        """Return the cheapest offers without the user's conditions, whether there are more, and the number of offers
        that cannot be read."""
        query = Query({"rentable": {"eq": True}}, (), self.offer_type, self.disk_gb)
        pages = list(islice(_pages(client, query), MARKET_PAGES))
        offers = {offer.ask_id: offer for page in pages for offer in page.offers}
        capped = len(pages) == MARKET_PAGES and pages[-1].is_full
        return list(offers.values()), capped, sum(page.unreadable for page in pages)


def _pages(client: VastClient, query: Query) -> Iterator[Page]:
    """Yield pages of a query's offers, cheapest first. Each page starts at the last price of the page before."""
    floor: float | None = None
    while True:
        bounds = [] if floor is None else [Constraint("dph_total", "gte", floor, "")]
        page = client.search(replace(query.with_constraints(bounds), order=(("dph_total", "asc"),)))
        yield page
        if not page.is_full or page.offers[-1].dph_total_usd == floor:
            return
        floor = page.offers[-1].dph_total_usd


def explain_no_offer(
    query: Query, market: Sequence[Offer], *, now: float, capped: bool, constraints: Iterable[Constraint]
) -> str:
    """Return the number of offers that each condition removes, and the nearest miss.

    `market`: offers without the user's conditions; `capped`: there are more. A condition that comes from `constraints`
    is printed with its reason, such as the config key.
    """
    filters = query.filters
    reasons = {(item.field, item.op): str(item) for item in constraints if filters[item.field][item.op] == item.value}
    conditions = [(field, op, limit) for field, ops in filters.items() for op, limit in ops.items()]
    misses = []
    for offer in market:
        broken = [
            (field, op, limit)
            for field, op, limit in conditions
            if unmet_conditions({field: {op: limit}}, offer.raw, now=now)
        ]
        misses.append((len(broken), offer.dph_total_usd, offer, broken))
    total = f"{len(market)}{'+' if capped else ''}"
    if not misses:
        return "0 offers are on the market at all; try again in a few minutes"
    removals = []
    for condition in conditions:
        removed = [offer for count, _, offer, broken in misses if count == 1 and broken == [condition]]
        if removed:
            cheapest = min(offer.dph_total_usd for offer in removed)
            text = reasons.get(condition[:2]) or describe(*condition)
            removals.append(f"{text} alone removes {len(removed)} (the cheapest at ${cheapest:.3f}/h)")
    count, price, nearest, broken = min(misses, key=lambda miss: (miss[0], miss[1]))
    near = "the offers that fit were rented during this search; try again"
    if count:
        failed = "; ".join(reasons.get(condition[:2]) or describe(*condition) for condition in broken)
        where = f"{nearest.gpu_name} on machine {nearest.machine_id}, {nearest.place}"
        near = f"nearest miss: {where}, ${price:.3f}/h, fails {failed}"
    return "; ".join([f"0 of {total} offers fit", *removals, near, *_suggest_names(conditions, market, now)])


def _suggest_names(conditions: Sequence[tuple[str, str, Json]], market: Sequence[Offer], now: float) -> Iterator[str]:
    """Suggest a name for each GPU or country in the conditions that no offer has: RTX 4090 for RTX4090, GB for UK."""
    for field, op, limit in conditions:
        if field not in ("gpu_name", "geolocation") or op not in ("eq", "in"):
            continue
        names = {str(value_of(field, offer.raw, now)) for offer in market}
        names_by_key = {name.replace(" ", "").casefold(): name for name in names}
        for name in map(str, limit if isinstance(limit, list | tuple) else [limit]):
            key = name.replace(" ", "").casefold()
            matches = get_close_matches(COUNTRY_ALIASES.get(key, key), names_by_key, 1, 0.8)
            if matches and name.casefold() != names_by_key[matches[0]].casefold():
                yield f"no offer has {field} {name}; did you mean {names_by_key[matches[0]]}?"
