"""OfferQuery: the search of the market as a resource. The query is the input; the offers found are a record.

Searched in `check`, which a preview runs: the offer and its price are known before a cent is spent. The record stays
as it is while the query does, so a moving market is never a diff, and a running stack previews with an empty market.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, DiffResult, UpdateResult

from components.errors import NoOffer, QueryError
from components.ledger_file import recorder
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, check_failure, is_known, verb
from components.records import record, structure
from components.vast.client import destroy_and_verify
from components.vast.json_values import as_text, same
from components.vast.label import Label
from components.vast.ledger import Event, sighting
from components.vast.market import Search
from components.vast.models import Contract

LOOK_FRESH_S = 5.0
RECORDED = 8  # candidates on record; a fleet takes more, of the search itself


class OfferQueryProvider(VastProvider):
    """Searches when there is no record yet or the query changed."""

    @verb
    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Validate the query and find offers; a query that nothing satisfies fails here, before anything is rented."""
        search = news.get("search")
        if not is_known(search) or not isinstance(search, dict):
            return CheckResult(news, [])
        if same(olds.get("search"), search) and olds.get("candidates"):
            return CheckResult({**news, "candidates": olds["candidates"]}, [])
        try:
            candidates = self.session.search(structure(Search, search))
        except (NoOffer, QueryError) as error:
            return CheckResult(news, [check_failure(error)])
        except ValueError as error:  # a value that is none of those that `prefer` or `offer_type` may have
            return CheckResult(news, [CheckFailure("search", str(error))])
        shown = [candidate.summary() for candidate in candidates[:RECORDED]]
        return CheckResult({**news, "candidates": shown}, [])

    @verb
    def diff(self, id_: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        left = self._left(id_, news)
        for contract in left:
            text = f"instance {contract.id} ({contract.label}) was left by a run that was killed, and is not declared"
            ENGINE.warn(f"{text}: it is destroyed")
        return DiffResult(changes=bool(left) or not same(olds.get("search"), news.get("search")))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Record the offers. The id, random, is the mark by which this state knows its own instances."""
        return CreateResult(secrets.token_hex(4), props)

    @verb
    def update(self, id_: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Record the offers. Destroy what runs that were killed left of instances that are not declared, as where
        `ops scale` was; what is declared is adopted by its Instance. Raises DestroyFailed."""
        for contract in self._left(id_, news):
            self._destroy(contract)
        return UpdateResult(news)

    def _left(self, id_: str, props: dict[str, Any]) -> list[Contract]:
        """Return contracts of this state that it neither has nor declares; none before a refresh has read what it has,
        as in a preview without one."""
        if not (known_ids := self.session.owner_instance_ids(id_)):
            return []
        contracts = self.session.instance_cache.contracts(max_age_s=LOOK_FRESH_S).values()
        labels = ((one, Label.parse(one.label)) for one in contracts if one.id not in known_ids)
        return [one for one, label in labels if label and label.owner == id_ and label.name not in props["instances"]]

    def _destroy(self, contract: Contract) -> None:
        destroy_and_verify(self.session.client, contract.id)
        self.session.instance_cache.forget()
        record_event = recorder(contract.label)
        record_event(sighting(contract))
        record_event(Event("end", instance_id=contract.id, reason="killed run"))
        ENGINE.warn(f"instance {contract.id} was left by a run that was killed: destroyed")

    @verb
    def delete(self, id_: str, _props: dict[str, Any]) -> None:
        """Destroy what runs that were killed left of this state: its last resource goes here. Raises DestroyFailed."""
        for contract in self.session.instance_cache.contracts().values():
            label = Label.parse(contract.label)
            if label is not None and label.owner == id_:
                self._destroy(contract)


class OfferQuery(VastResource, name="OfferQuery"):
    """Ranked offers for a query, and the names of the `instances` that are rented by it.

    Outputs: `search`, `candidates` (best first).

    `search_text`: the search as an Instance takes it.
    """

    search: pulumi.Output[dict[str, Any]]
    candidates: pulumi.Output[list[dict[str, Any]]]

    def __init__(
        self, name: str, args: Search, instances: Sequence[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        self.search_text = as_text(record(args))
        super().__init__(OfferQueryProvider(), name, {"search": args, "instances": instances}, opts)
