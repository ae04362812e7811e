"""A search of the market, from a user's query to ranked candidates, or to the reason why there is none.

Built by the OfferQuery resource and again by a rental whose record has grown old. The client is passed in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from components.errors import NoOffer
from components.vast.client import SEARCH_CAP, VastClient
from components.vast.explain import why_none
from components.vast.json_values import as_text
from components.vast.models import Offer
from components.vast.query import CLI_DEFAULTS, Constraint, Filters, OfferType, Query, parse, unmet
from components.vast.ranking import Candidate, Prefer, Workload, distinct_machines, rank
from components.vast.wire import Json, Wire

SPARE_KEEP = 16  # up to so many candidates one page is enough
MARKET_PAGES = 4  # pages read to explain why nothing fits


@dataclass(frozen=True)
class Search:
    """What is looked for: the user's query, the conditions that the deployment adds, and how to rank."""

    query: str | Mapping[str, Json] | None
    constraints: tuple[Constraint, ...]
    work: Workload
    prefer: Prefer = "balanced"
    offer_type: OfferType = "on-demand"
    keep: int = 8

    @classmethod
    def parse(cls, raw: Wire | str) -> Search:
        """Read a search from a resource's inputs: an OfferQuery's, or the text of it that an Instance has."""
        raw = json.loads(raw) if isinstance(raw, str) else raw
        return cls(
            query=raw.get("query"),
            constraints=tuple(
                Constraint(str(one["field"]), str(one["op"]), one["value"], str(one.get("because", "")))
                for one in raw.get("constraints") or ()
            ),
            work=Workload(float(raw["pull_gb"]), float(raw["disk_gb"]), float(raw.get("start_s") or 90.0)),
            prefer=raw.get("prefer") or "balanced",
            offer_type=raw.get("offer_type") or "on-demand",
            keep=int(raw.get("keep") or 8),
        )

    def key(self) -> str:
        """Return text that is equal for equal searches."""
        return as_text([self.wire().body(), self.prefer, self.work.pull_gb, self.work.start_s, self.keep])

    def wire(self) -> Query:
        """Return the query as the API receives it. Raises QueryError."""
        plain = Query(parse(self.query), offer_type=self.offer_type, allocated_storage_gb=self.work.disk_gb)
        return plain.with_constraints(self.constraints)

    def filters(self) -> Filters:
        """Return all conditions. Raises QueryError."""
        return self.wire().filters

    def run(self, client: VastClient, *, now: Callable[[], float] = time.time) -> Sequence[Candidate]:
        """Search and rank. Raises NoOffer with the count of what each condition removed, QueryError, ApiError."""
        query = self.wire()
        fit = [offer for offer in self._found(client, query) if not unmet(query.filters, offer.raw, now=now())]
        if not fit:
            market, capped = self._market(client)
            raise NoOffer(f"no offer fits: {why_none(query.filters, market, now=now(), capped=capped)}")
        return distinct_machines(rank(fit, self.work, self.prefer))[: self.keep]

    def _found(self, client: VastClient, query: Query) -> Sequence[Offer]:
        """Return the API's one page of 64 for the query, or, where more machines are wanted, further ones by price."""
        page = client.search(query)
        seen = {offer.ask_id: offer for offer in page}
        if self.keep <= SPARE_KEEP or len(page) < SEARCH_CAP:
            return list(seen.values())
        floor = 0.0
        while len({offer.machine_id for offer in seen.values()}) < 2 * self.keep:
            asked = query.with_constraints([Constraint("dph_total", "gte", floor, "")])
            page = client.search(replace(asked, order=(("dph_total", "asc"),)))
            fresh = [offer for offer in page if offer.ask_id not in seen]
            seen.update((offer.ask_id, offer) for offer in fresh)
            if len(page) < SEARCH_CAP or page[-1].dph_total_usd <= floor:
                break
            floor = page[-1].dph_total_usd
        return list(seen.values())

    def _market(self, client: VastClient) -> tuple[list[Offer], bool]:
        """Read offers with none of the user's conditions, cheapest first, page by page of the API's 64."""
        seen: dict[int, Offer] = {}
        floor: float | None = None
        for _ in range(MARKET_PAGES):
            filters: Filters = {"rentable": dict(CLI_DEFAULTS["rentable"])}
            if floor is not None:
                filters["dph_total"] = {"gte": floor}
            page = client.search(Query(filters, (("dph_total", "asc"),), self.offer_type, self.work.disk_gb))
            fresh = [offer for offer in page if offer.ask_id not in seen]
            seen.update((offer.ask_id, offer) for offer in fresh)
            if len(page) < SEARCH_CAP or not fresh:
                return list(seen.values()), False
            floor = page[-1].dph_total_usd
        return list(seen.values()), True
