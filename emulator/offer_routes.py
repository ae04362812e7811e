"""Calls about offers: search, and the rent calls. Parses, calls a rule of `world`, shapes the answer."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from emulator.contract import Contract
from emulator.errors import ServiceError, refusal
from emulator.http_faults import reply
from emulator.request import Route, body_of, path_id
from emulator.world import World


class OfferRoutes:
    """Handlers of searches and rent calls over one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/api/v0/bundles/", "search", self.search, 6.0, burst=10),
            Route("PUT", "/api/v0/search/asks/", "search", self.search_new, 6.0, burst=10),
            Route("PUT", "/api/v0/asks/{id}/", "rent", self.rent, 4.5),
            Route("POST", "/api/v0/asks/bulk/", "rent", self.rent_many, 4.5),
            Route("PUT", "/api/v0/launch_instance/", "rent", self.launch, 4.5),
        ]

    async def search(self, request: web.Request) -> web.Response:
        return reply({"offers": self.world.search(await body_of(request, "invalid_json"))})

    async def search_new(self, request: web.Request) -> web.Response:
        """Offers by the newer form of the same query."""
        return reply({"offers": self.world.search((await body_of(request, "invalid_json")).get("q") or {})})

    async def rent(self, request: web.Request) -> web.Response:
        return reply(_made(self._rented(path_id(request), await body_of(request))))

    async def rent_many(self, request: web.Request) -> web.Response:
        """Make a contract of each offer; the reply's shape is not documented, so it is the single one's, listed."""
        body = await body_of(request)
        results: list[dict[str, Any]] = []
        for ask_id in map(int, body.pop("ids")):
            try:
                results.append({**_made(self._rented(ask_id, dict(body))), "ask_id": ask_id})
            except ServiceError as error:
                results.append(error.body())
        return reply({"success": all(one["success"] for one in results), "results": results})

    async def launch(self, request: web.Request) -> web.Response:
        """Search, and rent what comes first."""
        body = await body_of(request)
        offers = self.world.search(body.pop("q", None) or {})
        if not offers:
            raise refusal("no_offer")
        return reply(_made(self._rented(offers[0]["id"], body)))

    def _rented(self, ask_id: int, body: dict[str, Any]) -> Contract:
        try:
            if self.world.faults.take("success_false", ask_id=ask_id):
                raise refusal("temporary")
            return self.world.rent(ask_id, body)
        except ServiceError as error:
            error.extra.setdefault("ask_id", ask_id)
            raise


def _made(contract: Contract) -> dict[str, Any]:
    return {"success": True, "new_contract": contract.id, "instance_api_key": contract.api_key}
