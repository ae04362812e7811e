"""A search of the market, from a user's query to ranked candidates, or to the reason why there is none.

Built by the OfferQuery resource and again by a rental whose record has grown old. The client is passed in.
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
from components.vast.query import (
    CLI_DEFAULTS,
    Constraint,
    Filters,
    OfferType,
    Query,
    describe,
    parse,
    unmet_conditions,
    value_of,
)
from components.vast.ranking import START_S, Candidate, Prefer, distinct_machines, rank
from components.vast.throughput import estimate_speeds

SPARE_KEEP = 16  # up to so many candidates one page is enough
OTHER_CODES = {"uk": "gb", "el": "gr"}  # how people write countries whose ISO code is another
MARKET_PAGES = 4  # pages read to explain why nothing fits
NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True)
class Search:
    """What is looked for, and how to rank it.

    `query`: the official CLI's syntax, or {field: {operator: value}}. `constraints`: what the deployment adds.
    `pull_gb`: what a host has to download; `disk_gb`: what prices include. `keep`: how many offers, best first.
    `model`, of `parameters_m`: whose speed is estimated, if it is named.
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
        return as_text([self.wire().body(), self.prefer, self.pull_gb, self.start_s, self.keep, self.model])

    def wire(self) -> Query:
        """Return the query as the API receives it. Raises QueryError."""
        plain = Query(parse(self.query), offer_type=self.offer_type, allocated_storage_gb=self.disk_gb)
        return plain.with_constraints(self.constraints)

    def filters(self) -> Filters:
        return self.wire().filters

    def run(
        self, client: VastClient, *, measured: Mapping[str, float] = NOTHING, now: Callable[[], float] = time.time
    ) -> Sequence[Candidate]:
        """Search and rank; see `fitting`."""
        return distinct_machines(rank(self.find_candidates(client, measured=measured, now=now), self.prefer))[
            : self.keep
        ]

    def find_candidates(
        self, client: VastClient, *, measured: Mapping[str, float] = NOTHING, now: Callable[[], float] = time.time
    ) -> list[Candidate]:
        """Return all that fits, in no order. `measured`: pairs/s of the model by GPU.

        Raises NoOffer with the count of what each condition removed, QueryError, ApiError.
        """
        query = self.wire()
        fit = [
            offer for offer in self._found(client, query) if not unmet_conditions(query.filters, offer.raw, now=now())
        ]
        if not fit:
            market, capped, unreadable = self._market(client)
            skipped = f"; {unreadable} more cannot be read, and were left out" if unreadable else ""
            why = why_none(query.filters, market, now=now(), capped=capped, constraints=self.constraints)
            raise NoOffer(f"no offer fits: {why}{skipped}")
        candidates = [Candidate.of(offer, self.pull_gb, self.start_s) for offer in fit]
        if not self.model or not (measured or self.prefer == "value"):
            return candidates
        speeds = estimate_speeds(fit, self.parameters_m, measured)
        return [replace(one, estimate=speed) for one, speed in zip(candidates, speeds, strict=True)]

    def _found(self, client: VastClient, query: Query) -> Sequence[Offer]:
        """Return the API's one page of 64 for the query, or, where more machines are wanted, further ones by price."""
        page = client.search(query)
        offers = {offer.ask_id: offer for offer in page.offers}
        if self.keep > SPARE_KEEP and page.is_full:
            for further in _pages(client, query):
                offers.update((offer.ask_id, offer) for offer in further.offers if offer.ask_id not in offers)
                if len({offer.machine_id for offer in offers.values()}) >= 2 * self.keep:
                    break
        return list(offers.values())

    def _market(self, client: VastClient) -> tuple[list[Offer], bool, int]:
        """Read offers with none of the user's conditions, cheapest first; return also whether there are more than were
        read, and how many cannot be read."""
        plain = Query({"rentable": dict(CLI_DEFAULTS["rentable"])}, (), self.offer_type, self.disk_gb)
        pages = list(islice(_pages(client, plain), MARKET_PAGES))
        offers = {offer.ask_id: offer for page in pages for offer in page.offers}
        more = len(pages) == MARKET_PAGES and pages[-1].is_full
        return list(offers.values()), more, sum(page.unreadable for page in pages)


def _pages(client: VastClient, query: Query) -> Iterator[Page]:
    """Read a query's offers, cheapest first, page by page of the API's 64: each begins at the last price of another."""
    floor: float | None = None
    while True:
        bounds = [] if floor is None else [Constraint("dph_total", "gte", floor, "")]
        page = client.search(replace(query.with_constraints(bounds), order=(("dph_total", "asc"),)))
        yield page
        if not page.is_full or page.offers[-1].dph_total_usd == floor:
            return
        floor = page.offers[-1].dph_total_usd


def why_none(
    filters: Filters,
    market: Sequence[Offer],
    *,
    now: float,
    capped: bool = False,
    constraints: Iterable[Constraint] = (),
) -> str:
    """Return one or two sentences: how many were looked at, which conditions remove how many, who came nearest.

    `market` are offers found without the user's conditions; `capped` says that there were more than were read. A
    condition that is one of `constraints` is told with its reason, such as the config key.
    """
    reasons = {(one.field, one.op): str(one) for one in constraints if filters[one.field][one.op] == one.value}
    conditions = [(field, op, want) for field, ops in filters.items() for op, want in ops.items()]
    misses = []
    for offer in market:
        broken = [
            (field, op, want)
            for field, op, want in conditions
            if unmet_conditions({field: {op: want}}, offer.raw, now=now)
        ]
        misses.append((len(broken), offer.dph_total_usd, offer, broken))
    total = f"{len(market)}{'+' if capped else ''}"
    if not misses:
        return "0 offers are on the market at all; try again in a few minutes"
    alone = []
    for condition in conditions:
        removed = [offer for count, _, offer, broken in misses if count == 1 and broken == [condition]]
        if removed:
            cheapest = min(offer.dph_total_usd for offer in removed)
            what = reasons.get(condition[:2]) or describe(*condition)
            alone.append(f"{what} alone removes {len(removed)} (the cheapest at ${cheapest:.3f}/h)")
    count, price, nearest, broken = min(misses, key=lambda miss: (miss[0], miss[1]))
    near = "offers fit but went away while they were counted; try again"
    if count:
        words = "; ".join(reasons.get(condition[:2]) or describe(*condition) for condition in broken)
        where = f"{nearest.gpu_name} on machine {nearest.machine_id}, {nearest.place}"
        near = f"nearest miss: {where}, ${price:.3f}/h, fails {words}"
    return "; ".join([f"0 of {total} offers fit", *alone, near, *_near_names(conditions, market, now)])


def _near_names(conditions: Sequence[tuple[str, str, Json]], market: Sequence[Offer], now: float) -> Iterator[str]:
    """Yield a hint for each GPU or country of the conditions that no offer has, and that is meant for one that some do:
    RTX4090 for RTX 4090, UK for GB."""
    for field, op, want in conditions:
        if field not in ("gpu_name", "geolocation") or op not in ("eq", "in"):
            continue
        names = {str(value_of(field, offer.raw, now)) for offer in market}
        there = {name.replace(" ", "").casefold(): name for name in names}
        for name in map(str, want if isinstance(want, list | tuple) else [want]):
            short = name.replace(" ", "").casefold()
            near = get_close_matches(OTHER_CODES.get(short, short), there, 1, 0.8)
            if near and name.casefold() != there[near[0]].casefold():
                yield f"no offer has {field} {name}; did you mean {there[near[0]]}?"
