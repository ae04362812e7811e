"""HTTP to the world and back: Vast's paths, its authentication, its errors, and the faults that act on a call.

Every handler parses, calls a rule of `world`, and shapes the answer. The control API is apart, in `control`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from emulator import shapes
from emulator.errors import ServiceError, invalid
from emulator.faults import Faults, Rule
from emulator.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIST_MAX = 25
FILTERABLE = ("id", "label", "actual_status", "gpu_name", "verification", "intended_status", "cur_state", "machine_id")
# Least seconds between two calls (calls, window), by endpoint; only where pacing is published.
PACING = {
    "search": (10, 60.0), "rent": (1, 4.5), "destroy": (1, 3.0), "show": (1, 2.0), "list": (1, 1.0), "manage": (1, 1.0),
    "bid": (1, 5.5),
}  # fmt: skip


class Api:
    """The emulated API over one world."""

    def __init__(self, world: World, *, keys: set[str], pacing: bool, changed: Callable[[], None]) -> None:
        self.world = world
        self.requests: Counter[str] = Counter()
        self._keys = keys
        self._pacing = pacing
        self._changed = changed
        self._calls: dict[str, list[float]] = {}
        self._blobs: dict[str, str] = {}

    def table(self) -> list[web.RouteDef]:
        """Return the routes."""
        routes: list[tuple[str, str, str, Handler]] = [
            ("GET", "/api/v0/users/current", "user", self.user),
            ("GET", "/api/v0/users/current/", "user", self.user),
            ("POST", "/api/v0/bundles/", "search", self.search),
            ("PUT", "/api/v0/search/asks/", "search", self.search_new),
            ("PUT", "/api/v0/asks/{id}/", "rent", self.rent),
            ("GET", "/api/v0/instances/", "list", self.list_retired),
            ("GET", "/api/v1/instances/", "list", self.list),
            ("PUT", "/api/v0/instances/", "manage", self.manage_many),
            ("DELETE", "/api/v0/instances/", "destroy", self.destroy_many),
            ("GET", "/api/v0/instances/filters/", "filters", self.filters),
            ("GET", "/api/v0/instances/pending-price-increases/", "prices", self.prices),
            ("GET", "/api/v0/instances/{id}/", "show", self.show),
            ("PUT", "/api/v0/instances/{id}/", "manage", self.manage),
            ("DELETE", "/api/v0/instances/{id}/", "destroy", self.destroy),
            ("PUT", "/api/v0/instances/reboot/{id}/", "manage", self.reboot),
            ("PUT", "/api/v0/instances/recycle/{id}/", "manage", self.reboot),
            ("PUT", "/api/v0/instances/bid_price/{id}/", "bid", self.bid),
            ("PUT", "/api/v0/instances/request_logs/{id}/", "logs", self.logs),
        ]
        found = [
            web.route(method, path, self._wrap(f"{method} {path}", name, call)) for method, path, name, call in routes
        ]
        return [*found, web.get("/blob/{name}", self.blob)]

    # ---- around every call ---------------------------------------------------------------------------------------

    def _wrap(self, template: str, endpoint: str, call: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[template] += 1
            refusal = self._refused(request, endpoint)
            if refusal is not None:
                return refusal
            fault = self._fault(endpoint, request, after=False)
            if isinstance(fault, web.StreamResponse):
                return fault
            try:
                answer = await call(request)
            except ServiceError as error:
                answer = reply(error.body(), status=error.status)
            except (ValueError, KeyError, TypeError) as error:
                answer = reply(invalid(str(error)).body(), status=400)
            if request.method != "GET":
                self._changed()
            return self._fault(endpoint, request, after=True) or answer

        return handle

    def _refused(self, request: web.Request, endpoint: str) -> web.Response | None:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if key not in self._keys:
            body = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
            return reply(body, status=404 if endpoint == "search" else 401)
        if self._pacing and endpoint in PACING:
            calls, window = PACING[endpoint]
            now = time.monotonic()
            recent = [at for at in self._calls.get(endpoint, []) if now - at < window]
            self._calls[endpoint] = recent
            if len(recent) >= calls:
                return web.Response(text="API requests too frequent", status=429)
            recent.append(now)
        return None

    def _fault(self, endpoint: str, request: web.Request, *, after: bool) -> web.StreamResponse | None:
        faults: Faults = self.world.faults
        kinds = ("lost_answer_after", "malformed_json") if after else (
            "http_429", "http_502_html", "http_500", "lost_answer_before",
        )  # fmt: skip
        rule = faults.take(*kinds, endpoint=endpoint, method=request.method)
        if rule is None:
            return None
        if rule.kind in ("lost_answer_before", "lost_answer_after"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return _faulty(rule)

    # ---- the API -------------------------------------------------------------------------------------------------

    async def user(self, _request: web.Request) -> web.Response:
        """The account."""
        return reply(shapes.user(self.world.credit_left()))

    async def search(self, request: web.Request) -> web.Response:
        """Offers by a flat query."""
        return reply({"offers": self.world.search(await request.json())})

    async def search_new(self, request: web.Request) -> web.Response:
        """Offers by the newer form of the same query."""
        return reply({"offers": self.world.search((await request.json())["q"])})

    async def rent(self, request: web.Request) -> web.Response:
        """Make a contract."""
        body = await request.json()
        if self.world.faults.take("success_false"):
            return reply({"success": False, "error": "temporary", "msg": "try again"})
        contract = self.world.rent(_id(request), body)
        return reply({"success": True, "new_contract": contract.id, "instance_api_key": contract.api_key})

    async def show(self, request: web.Request) -> web.Response:
        """One instance; null when there is none, as the real API answers."""
        try:
            contract = self.world.contract(_id(request))
        except ServiceError:
            return reply({"instances": None})
        shown = shapes.instance(contract, self.world.machine_of(contract), self.world.now())
        return reply({"instances": shown})

    async def list_retired(self, _request: web.Request) -> web.Response:
        """The list that is gone."""
        raise ServiceError(410, "deprecated_endpoint", "use /api/v1/instances/")

    async def list(self, request: web.Request) -> web.Response:
        """Instances, 25 a page."""
        filters = json.loads(request.query.get("select_filters") or "{}")
        for name in filters:
            if name not in FILTERABLE:
                raise invalid(f"{name} is not a valid search key")
        limit = int(request.query.get("limit") or LIST_MAX)
        limit = 5 if limit <= 0 else min(limit, LIST_MAX)
        after = int(request.query.get("after_token") or 0)
        rows = []
        for contract in sorted(self.world.live(), key=lambda one: one.id):
            row = shapes.instance(contract, self.world.machine_of(contract), self.world.now())
            if all(_holds(row.get(name), ops) for name, ops in filters.items()):
                rows.append(row)
        page = [row for row in rows if row["id"] > after][:limit]
        more = page and page[-1]["id"] != rows[-1]["id"]
        columns = json.loads(request.query.get("select_cols") or "null")
        if columns and columns != ["*"]:
            page = [{key: value for key, value in row.items() if key in (*columns, "id")} for row in page]
        return reply(
            {
                "success": True,
                "instances_found": len(page),
                "total_instances": len(rows),
                "label_counts": {},
                "next_token": str(page[-1]["id"]) if more else None,
                "instances": page,
            }
        )

    async def filters(self, _request: web.Request) -> web.Response:
        """What the list can be filtered by."""
        rows = [
            {
                "actual_status": one.actual_status,
                "verification": "verified",
                "gpu_name": self.world.machine_of(one).gpu.name,
            }
            for one in self.world.live()
        ]
        return reply({"filters": rows})

    async def prices(self, _request: web.Request) -> web.Response:
        """Announced price increases."""
        rows = [
            {
                "pending_price_increase_id": one.id,
                "contract_id": one.id,
                "new_gpu_costpersec": one.announced_dph_usd / 3600,
                "new_disk_ram_costpersec": one.dph_disk_usd / 3600,
            }
            for one in self.world.live()
            if one.announced_dph_usd is not None
        ]
        return reply({"success": True, "count": len(rows), "truncated": False, "pending_price_increases": rows})

    async def manage(self, request: web.Request) -> web.Response:
        """Start, stop or label an instance."""
        body = await request.json()
        contract = self.world.contract(_id(request))
        if "label" in body:
            contract.label = str(body["label"] or "")
        if "state" in body:
            await self.world.set_state(contract.id, body["state"])
        return reply({"success": True})

    async def manage_many(self, request: web.Request) -> web.Response:
        """Start or stop several."""
        body = await request.json()
        for instance_id in body.get("ids") or body.get("instance_ids") or []:
            await self.world.set_state(int(instance_id), body["state"])
        return reply({"success": True})

    async def destroy(self, request: web.Request) -> web.Response:
        """End a contract."""
        await self.world.destroy(_id(request))
        return reply({"success": True})

    async def destroy_many(self, request: web.Request) -> web.Response:
        """End several."""
        for instance_id in (await request.json())["instance_ids"]:
            await self.world.destroy(int(instance_id))
        return reply({"success": True})

    async def reboot(self, request: web.Request) -> web.Response:
        """Reboot or recycle."""
        await self.world.reboot(_id(request))
        return reply({"success": True})

    async def bid(self, request: web.Request) -> web.Response:
        """Change a bid."""
        price = float((await request.json())["price"])
        if not 0.001 <= price <= 128:
            raise invalid("price must be between 0.001 and 128")
        self.world.contract(_id(request)).price_usd = price
        return reply({"success": True})

    async def logs(self, request: web.Request) -> web.Response:
        """Put the end of a log where it can be fetched."""
        contract = self.world.contract(_id(request))
        lines = int((await request.json()).get("tail") or 1000)
        name = f"{contract.id}-{len(self._blobs)}.log"
        self._blobs[name] = self.world.containers.log(contract.id, lines)
        return reply({"success": True, "result_url": f"{request.url.origin()}/blob/{name}", "msg": ""})

    async def blob(self, request: web.Request) -> web.Response:
        """A stored log, for whoever knows its name."""
        text = self._blobs.get(request.match_info["name"])
        return web.Response(status=404) if text is None else web.Response(text=text)


def reply(data: Any, status: int = 200) -> web.Response:
    """Return JSON under the bare media type: the official client refuses one with a charset."""
    return web.Response(body=json.dumps(data).encode(), status=status, headers={"Content-Type": "application/json"})


def _id(request: web.Request) -> int:
    return int(request.match_info["id"])


def _holds(have: Any, ops: dict[str, Any]) -> bool:
    results = {"eq": have == ops.get("eq"), "neq": have != ops.get("neq"), "in": have in (ops.get("in") or ())}
    return all(results[op] for op in ops)


def _faulty(rule: Rule) -> web.Response:
    if rule.kind == "http_429":
        form = rule.params.get("form", "text")
        headers = {"Retry-After": str(rule.params.get("seconds", 1))} if form == "header" else {}
        if form == "json":
            return reply({"detail": "too many requests", "retry_after": rule.params.get("seconds", 1)}, status=429)
        return web.Response(text="API requests too frequent", status=429, headers=headers)
    if rule.kind == "http_502_html":
        return web.Response(text="<html><body>502 Bad Gateway</body></html>", status=502, content_type="text/html")
    if rule.kind == "http_500":
        return reply({"msg": "internal error"}, status=500)
    return web.Response(text='{"instances": [', status=200, content_type="application/json")
