"""OfferQuery: the search of the market as a resource. The query is the input; the offers found are a record.

Searched in `check`, which a preview runs: the offer and its price are known before a cent is spent. The record stays
as it is while the query does, so a moving market is never a diff, and a running stack previews with an empty market.
"""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, DiffResult, UpdateResult

from components.errors import NoOffer, QueryError
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, failure, known, verb
from components.records import record, structure
from components.vast.client import destroy_and_verify
from components.vast.json_values import as_text, same
from components.vast.label import Label
from components.vast.market import Search

RECORDED = 8  # candidates on record; a fleet takes more, of the search itself


class OfferQueryProvider(VastProvider):
    """Searches when there is no record yet or the query changed."""

    @verb
    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Validate the query and find offers; a query that nothing satisfies fails here, before anything is rented."""
        search = news.get("search")
        if not known(search) or not isinstance(search, dict):
            return CheckResult(news, [])
        if same(olds.get("search"), search) and olds.get("candidates"):
            return CheckResult({**news, "candidates": olds["candidates"]}, [])
        try:
            candidates = self.session.search(structure(Search, search))
        except (NoOffer, QueryError) as error:
            return CheckResult(news, [failure(error)])
        except ValueError as error:  # a value that is none of those that `prefer` or `offer_type` may have
            return CheckResult(news, [CheckFailure("search", str(error))])
        shown = [candidate.summary() for candidate in candidates[:RECORDED]]
        return CheckResult({**news, "candidates": shown}, [])

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=not same(olds.get("search"), news.get("search")))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Record the offers. The id, random, is the mark by which this state knows its own instances."""
        return CreateResult(secrets.token_hex(4), props)

    @verb
    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(news)

    @verb
    def delete(self, id_: str, _props: dict[str, Any]) -> None:
        """Destroy what runs that were killed left of this state: its last resource goes here. Raises DestroyFailed."""
        for contract in self.session.instance_cache.contracts().values():
            label = Label.parse(contract.label)
            if label is not None and label.owner == id_:
                destroy_and_verify(self.session.client, contract.id)
                ENGINE.warn(f"instance {contract.id} was left by a run that was killed: destroyed")


class OfferQuery(VastResource, name="OfferQuery"):
    """Ranked offers for a query. Outputs: `search`, `candidates` (best first).

    `search_text`: the search as an Instance takes it.
    """

    search: pulumi.Output[dict[str, Any]]
    candidates: pulumi.Output[list[dict[str, Any]]]

    def __init__(self, name: str, args: Search, opts: pulumi.ResourceOptions | None = None) -> None:
        self.search_text = as_text(record(args))
        super().__init__(OfferQueryProvider(), name, {"search": args}, opts)
