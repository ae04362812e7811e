"""Calls that read instances: one, the list, announced prices. Parses, asks `world`, shapes the answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from emulator import shapes
from emulator.contract import Contract
from emulator.errors import refusal
from emulator.filters import OPERATORS, satisfies
from emulator.http_faults import reply
from emulator.pages import page
from emulator.request import Route, body_of, parameter, path_id
from emulator.world import World

PAGE_MAX, PAGE_OF_NONE = 25, 5
# Stored on the contract; the other columns are computed and cannot be filtered by.
FILTERABLE = (
    "id", "label", "actual_status", "intended_status", "cur_state", "next_state", "gpu_name", "verification",
    "machine_id", "host_id", "is_bid", "image_uuid", "start_date", "end_date", "disk_space", "geolocation",
)  # fmt: skip


class ListRoutes:
    """Handlers of calls that read instances over one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/v0/instances/", "list", self.list_retired),
            Route("GET", "/api/v1/instances/", "list", self.list),
            Route("GET", "/api/v0/instances/filters/", "filters", self.filters),
            Route("GET", "/api/v0/instances/pending-price-increases/", "prices", self.prices),
            Route("PUT", "/api/v0/instances/accept-price-increase/", "prices", self.price_accepted),
            Route("PUT", "/api/v0/instances/reject-price-increase/", "prices", self.price_rejected),
            Route("GET", "/api/v0/instances/balance/{id}/", "show", self.deposit, 3.0),
            Route("GET", "/api/v0/instances/{id}/", "show", self.show, 2.0),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """One instance; null when there is none, as the real API answers."""
        contract = self.world.shown(path_id(request))
        return reply({"instances": None if contract is None else self._row(contract)})

    async def deposit(self, request: web.Request) -> web.Response:
        """What is left of a prepaid amount."""
        return reply(shapes.deposit(self.world.contract(path_id(request)), self.world.now()))

    async def list_retired(self, _request: web.Request) -> web.Response:
        """The list that is gone."""
        raise refusal("old_list")

    async def list(self, request: web.Request) -> web.Response:
        """Instances, page by page."""
        filters = parameter(request, "select_filters", {})
        order = [(one["col"], one.get("dir", "asc")) for one in parameter(request, "order_by", [])]
        for name in (*filters, *(name for name, _ in order)):
            if name not in FILTERABLE:
                raise refusal("invalid_query", what=f"{name} is not a valid search key")
        for operator in (one for ops in filters.values() for one in ops):
            if operator not in OPERATORS:
                raise refusal("invalid_query", what=f"{operator} is not a valid operator")
        limit = parameter(request, "limit", PAGE_MAX)
        limit = PAGE_OF_NONE if limit <= 0 else min(limit, PAGE_MAX)
        rows = [self._row(contract) for contract in self.world.seen()]
        rows = [row for row in rows if all(satisfies(row.get(name), ops) for name, ops in filters.items())]
        shown, token = page(rows, order, limit, request.query.get("after_token"))
        columns = parameter(request, "select_cols", ["*"])
        return reply(
            {
                "success": True,
                "instances_found": len(shown),
                "total_instances": len(rows),
                "label_counts": dict(Counter(row["label"] or "" for row in rows)),
                "next_token": token,
                "instances": shown if "*" in columns else [{key: row.get(key) for key in columns} for row in shown],
            }
        )

    async def filters(self, _request: web.Request) -> web.Response:
        """What the list can be filtered by."""
        rows = [self._row(one) for one in self.world.live()]
        names = ("actual_status", "verification", "gpu_name")
        return reply({"filters": [{name: row[name] for name in names} for row in rows]})

    def _row(self, contract: Contract) -> dict[str, Any]:
        return shapes.instance(contract, self.world.machine_of(contract), self.world.now())

    # ---- price increases -----------------------------------------------------------------------------------------

    async def prices(self, _request: web.Request) -> web.Response:
        rows = [
            shapes.price_increase(one, self.world.machine_of(one))
            for one in self.world.seen()
            if one.announced_dph_usd is not None
        ]
        return reply({"success": True, "count": len(rows), "truncated": False, "pending_price_increases": rows})

    async def price_accepted(self, request: web.Request) -> web.Response:
        """Take the higher price."""
        contract = await self._announced(request)
        contract.reprice(self.world.now(), base_usd=contract.announced_dph_usd)
        return self._answered(contract)

    async def price_rejected(self, request: web.Request) -> web.Response:
        """Keep the price that was agreed."""
        return self._answered(await self._announced(request))

    async def _announced(self, request: web.Request) -> Contract:
        body = await body_of(request)
        if set(body) != {"pending_price_increase_id"}:
            raise refusal("invalid_args", what="pending_price_increase_id, and nothing else, is taken")
        contract = self.world.contracts.get(int(body["pending_price_increase_id"]))
        if contract is None or contract.destroyed_at is not None or contract.announced_dph_usd is None:
            raise refusal("no_pending_price_increase")
        return contract

    @staticmethod
    def _answered(contract: Contract) -> web.Response:
        contract.announced_dph_usd = None
        return reply({"success": True, "pending_price_increase_id": contract.id, "contract_id": contract.id})
