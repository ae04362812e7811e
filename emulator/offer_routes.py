"""API calls about offers: search and rent. Called by `routes`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from emulator.contract import Contract
from emulator.errors import ServiceError, refusal
from emulator.http_faults import reply
from emulator.request import Route, path_id, read_body
from emulator.world import World


class OfferRoutes:
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
        return reply({"offers": self.world.search(await read_body(request, "invalid_json"))})

    async def search_new(self, request: web.Request) -> web.Response:
        """Search with the newer form of the query."""
        return reply({"offers": self.world.search((await read_body(request, "invalid_json")).get("q") or {})})

    async def rent(self, request: web.Request) -> web.Response:
        return reply(_rent_result(self._rent(path_id(request), await read_body(request))))

    async def rent_many(self, request: web.Request) -> web.Response:
        """Rent several offers. The answer is a list of single rent answers (an assumption: it is not documented)."""
        body = await read_body(request)
        results: list[dict[str, Any]] = []
        for ask_id in list(map(int, body.pop("ids"))):
            try:
                results.append({**_rent_result(self._rent(ask_id, dict(body))), "ask_id": ask_id})
            except ServiceError as error:
                results.append(error.body())
        return reply({"success": all(result["success"] for result in results), "results": results})

    async def launch(self, request: web.Request) -> web.Response:
        """Search, and rent the first offer."""
        body = await read_body(request)
        offers = self.world.search(body.pop("q", None) or {})
        if not offers:
            raise refusal("no_offer")
        return reply(_rent_result(self._rent(offers[0]["id"], body)))

    def _rent(self, ask_id: int, body: dict[str, Any]) -> Contract:
        try:
            if self.world.faults.take("success_false", ask_id=ask_id):
                raise refusal("temporary")
            return self.world.rent(ask_id, body)
        except ServiceError as error:
            error.extra.setdefault("ask_id", ask_id)
            raise


def _rent_result(contract: Contract) -> dict[str, Any]:
    return {"success": True, "new_contract": contract.id, "instance_api_key": contract.api_key}
