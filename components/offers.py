"""OfferQuery: the search for offers as a resource. The query is its input; the state records the found offers.

`check`, which a preview runs, searches: the offer and its price are known before any cost. The record changes only with
the query, so a change of the market is no diff, and a running stack can be previewed with an empty market.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, DiffResult, UpdateResult

from components.errors import NoOffer, QueryError
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, check_failure, is_known, verb
from components.records import record, structure
from components.stack_ledger import recorder
from components.vast.client import destroy_and_verify
from components.vast.json_values import as_text, same
from components.vast.label import Label
from components.vast.ledger import Event, rent_event
from components.vast.market import Search
from components.vast.models import Contract

LIST_MAX_AGE_S = 5.0
MAX_RECORDED = 8  # candidates in the state; a fleet uses more candidates of the search


class OfferQueryProvider(VastProvider):
    """Searches if there is no record yet or the query has changed."""

    @verb
    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Validate the query and find offers; without matching offers the check fails, before anything is rented."""
        search = news.get("search")
        if not is_known(search) or not isinstance(search, dict):
            return CheckResult(news, [])
        if same(olds.get("search"), search) and olds.get("candidates"):
            return CheckResult({**news, "candidates": olds["candidates"]}, [])
        try:
            candidates = self.session.search(structure(Search, search))
        except (NoOffer, QueryError) as error:
            return CheckResult(news, [check_failure(error)])
        except ValueError as error:  # a wrong value of `prefer` or `offer_type`
            return CheckResult(news, [CheckFailure("search", str(error))])
        summaries = [candidate.summary() for candidate in candidates[:MAX_RECORDED]]
        return CheckResult({**news, "candidates": summaries}, [])

    @verb
    def diff(self, id_: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        orphans = self._orphans(id_, news)
        for contract in orphans:
            text = f"instance {contract.id} ({contract.label}) was left by a killed run, and is not declared"
            ENGINE.warn(f"{text}: it will be destroyed")
        return DiffResult(changes=bool(orphans) or not same(olds.get("search"), news.get("search")))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Record the offers. The random id marks the instances of this state."""
        return CreateResult(secrets.token_hex(4), props)

    @verb
    def update(self, id_: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Record the offers. Destroy undeclared instances that killed runs left, for example of `ops scale`; an
        Instance adopts declared ones. Raises DestroyFailed."""
        for contract in self._orphans(id_, news):
            self._destroy(contract)
        return UpdateResult(news)

    def _orphans(self, id_: str, props: dict[str, Any]) -> list[Contract]:
        """Return contracts with this state's mark that are neither in the state nor declared. Without a refresh the
        instances of the state are unknown; then return none."""
        if not (known_ids := self.session.owner_instance_ids(id_)):
            return []
        contracts = self.session.instance_cache.contracts(max_age_s=LIST_MAX_AGE_S).values()
        rows = ((item, Label.parse(item.label)) for item in contracts if item.id not in known_ids)
        return [item for item, label in rows if label and label.owner == id_ and label.name not in props["instances"]]

    def _destroy(self, contract: Contract) -> None:
        destroyed = destroy_and_verify(self.session.client, contract.id)
        self.session.instance_cache.invalidate()
        record_event = recorder(contract.label)
        record_event(rent_event(contract))
        record_event(Event("end", destroyed.at, instance_id=contract.id, reason="killed run"))
        ENGINE.warn(f"instance {contract.id} was left by a killed run: destroyed")

    @verb
    def delete(self, id_: str, _props: dict[str, Any]) -> None:
        """Destroy instances that killed runs left: this is the state's last resource to go. Raises DestroyFailed."""
        for contract in self.session.instance_cache.contracts().values():
            label = Label.parse(contract.label)
            if label is not None and label.owner == id_:
                self._destroy(contract)


class OfferQuery(VastResource, name="OfferQuery"):
    """Ranked offers for a query, and the names of the `instances` that use it. Outputs: `search`, `candidates` (best
    first). `search_text`: the search as input of an Instance."""

    search: pulumi.Output[dict[str, Any]]
    candidates: pulumi.Output[list[dict[str, Any]]]

    def __init__(
        self, name: str, args: Search, instances: Sequence[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        self.search_text = as_text(record(args))
        super().__init__(OfferQueryProvider(), name, {"search": args, "instances": instances}, opts)
