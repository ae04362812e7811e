"""API calls that read instances: an instance, the list, announced prices. Called by `routes`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from emulator import shapes
from emulator.contract import Contract
from emulator.errors import refusal
from emulator.filters import OPERATORS, satisfies_all
from emulator.http_faults import reply
from emulator.pages import page
from emulator.request import Route, parameter, path_id, read_body
from emulator.world import World

PAGE_MAX, DEFAULT_PAGE = 25, 5
# Columns stored on the contract; the API cannot filter by the computed columns.
FILTERABLE = (
    "id", "label", "actual_status", "intended_status", "cur_state", "next_state", "gpu_name", "verification",
    "machine_id", "host_id", "is_bid", "image_uuid", "start_date", "end_date", "disk_space", "geolocation",
)  # fmt: skip


class ListRoutes:
    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/v0/instances/", "list", self.list_retired),
            Route("GET", "/api/v1/instances/", "list", self.list),
            Route("GET", "/api/v0/instances/filters/", "filters", self.filters),
            Route("GET", "/api/v0/instances/pending-price-increases/", "prices", self.prices),
            Route("PUT", "/api/v0/instances/accept-price-increase/", "prices", self.accept_price),
            Route("PUT", "/api/v0/instances/reject-price-increase/", "prices", self.reject_price),
            Route("GET", "/api/v0/instances/balance/{id}/", "show", self.deposit, 3.0),
            Route("GET", "/api/v0/instances/{id}/", "show", self.show, 2.0),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """Return an instance; null for an unknown id, as the real API does."""
        contract = self.world.find_visible(path_id(request))
        return reply({"instances": None if contract is None else self._row(contract)})

    async def deposit(self, request: web.Request) -> web.Response:
        """Return the remaining deposit."""
        return reply(shapes.deposit(self.world.get_contract(path_id(request)), self.world.now()))

    async def list_retired(self, _request: web.Request) -> web.Response:
        raise refusal("old_list")

    async def list(self, request: web.Request) -> web.Response:
        """Return a page of instances."""
        filters = parameter(request, "select_filters", {})
        order = [(column["col"], column.get("dir", "asc")) for column in parameter(request, "order_by", [])]
        for name in (*filters, *(name for name, _ in order)):
            if name not in FILTERABLE:
                raise refusal("invalid_query", what=f"{name} is not a valid search key")
        for operator in (op for ops in filters.values() for op in ops):
            if operator not in OPERATORS:
                raise refusal("invalid_query", what=f"{operator} is not a valid operator")
        limit = parameter(request, "limit", PAGE_MAX)
        limit = DEFAULT_PAGE if limit <= 0 else min(limit, PAGE_MAX)
        rows = [self._row(contract) for contract in self.world.visible_contracts()]
        rows = [row for row in rows if satisfies_all(row, filters)]
        instances, token = page(rows, order, limit, request.query.get("after_token"))
        columns = parameter(request, "select_cols", ["*"])
        if "*" not in columns:
            instances = [{key: row.get(key) for key in columns} for row in instances]
        return reply(
            {
                "success": True,
                "instances_found": len(instances),
                "total_instances": len(rows),
                "label_counts": dict(Counter(row["label"] or "" for row in rows)),
                "next_token": token,
                "instances": instances,
            }
        )

    async def filters(self, _request: web.Request) -> web.Response:
        """Return the values that the list can be filtered by."""
        rows = [self._row(contract) for contract in self.world.live_contracts()]
        names = ("actual_status", "verification", "gpu_name")
        return reply({"filters": [{name: row[name] for name in names} for row in rows]})

    def _row(self, contract: Contract) -> dict[str, Any]:
        return shapes.instance(contract, self.world.find_machine(contract), self.world.now())

    # ---- price increases -----------------------------------------------------------------------------------------

    async def prices(self, _request: web.Request) -> web.Response:
        rows = [
            shapes.price_increase(contract, self.world.find_machine(contract))
            for contract in self.world.visible_contracts()
            if contract.announced_dph_usd is not None
        ]
        return reply({"success": True, "count": len(rows), "truncated": False, "pending_price_increases": rows})

    async def accept_price(self, request: web.Request) -> web.Response:
        contract = await self._find_announced(request)
        contract.reprice(self.world.now(), base_usd=contract.announced_dph_usd)
        return self._end_announcement(contract)

    async def reject_price(self, request: web.Request) -> web.Response:
        return self._end_announcement(await self._find_announced(request))

    async def _find_announced(self, request: web.Request) -> Contract:
        body = await read_body(request)
        if set(body) != {"pending_price_increase_id"}:
            raise refusal("invalid_args", what="pending_price_increase_id, and nothing else, is taken")
        contract = self.world.contracts.get(int(body["pending_price_increase_id"]))
        if contract is None or contract.destroyed_at is not None or contract.announced_dph_usd is None:
            raise refusal("no_pending_price_increase")
        return contract

    @staticmethod
    def _end_announcement(contract: Contract) -> web.Response:
        contract.announced_dph_usd = None
        return reply({"success": True, "pending_price_increase_id": contract.id, "contract_id": contract.id})
