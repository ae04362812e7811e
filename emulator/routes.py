"""HTTP to the world and back: Vast's paths, its authentication, its pacing, its errors. Every handler parses, calls a
rule of `world` and shapes the answer. Faults that act on a call are in `http_faults`, the control API is in `control`.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from emulator import shapes
from emulator.contract import Contract
from emulator.errors import ServiceError, invalid
from emulator.faults import AFTER, BEFORE
from emulator.filters import ordered, satisfies
from emulator.http_faults import HANDLERS, reply, unauthorized
from emulator.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE_MAX, PAGE_OF_NONE = 25, 5
LABEL_LIMIT = 1024
BLOBS_KEPT = 100
# Stored on the contract; the other columns are computed and cannot be filtered by.
FILTERABLE = (
    "id", "label", "actual_status", "intended_status", "cur_state", "next_state", "gpu_name", "verification",
    "machine_id", "host_id", "is_bid", "image_uuid", "start_date", "end_date", "disk_space", "geolocation",
)  # fmt: skip
# Most calls in so many seconds, by endpoint, and the threshold that the refusal names; where pacing is published.
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
        routes: list[tuple[str, str, str, Handler]] = [
            ("GET", "/api/v0/users/current", "user", self.user),
            ("GET", "/api/v0/users/current/", "user", self.user),
            ("POST", "/api/v0/bundles/", "search", self.search),
            ("PUT", "/api/v0/search/asks/", "search", self.search_new),
            ("PUT", "/api/v0/asks/{id}/", "rent", self.rent),
            ("POST", "/api/v0/asks/bulk/", "rent", self.rent_many),
            ("GET", "/api/v0/instances/", "list", self.list_retired),
            ("GET", "/api/v1/instances/", "list", self.list),
            ("PUT", "/api/v0/instances/", "manage", self.manage_many),
            ("DELETE", "/api/v0/instances/", "destroy", self.destroy_many),
            ("GET", "/api/v0/instances/filters/", "filters", self.filters),
            ("GET", "/api/v0/instances/pending-price-increases/", "prices", self.prices),
            ("PUT", "/api/v0/instances/accept-price-increase/", "prices", self.price_accepted),
            ("PUT", "/api/v0/instances/reject-price-increase/", "prices", self.price_rejected),
            ("GET", "/api/v0/instances/{id}/", "show", self.show),
            ("PUT", "/api/v0/instances/{id}/", "manage", self.manage),
            ("DELETE", "/api/v0/instances/{id}/", "destroy", self.destroy),
            ("PUT", "/api/v0/instances/reboot/{id}/", "manage", self.reboot),
            ("PUT", "/api/v0/instances/recycle/{id}/", "manage", self.recycle),
            ("PUT", "/api/v0/instances/bid_price/{id}/", "bid", self.bid),
            ("PUT", "/api/v0/instances/update_template/{id}/", "manage", self.update),
            ("PUT", "/api/v0/instances/request_logs/{id}/", "logs", self.logs),
        ]
        found = []
        for method, path, name, call in routes:
            handler = self._wrap(f"{method} {path}", name, call)
            # //api/… too: the official client does not strip a slash at the end of its address
            found += [web.route(method, lead + path, handler) for lead in ("", "/")]
        return [*found, web.get("/blob/{name}", self.blob), web.get("//blob/{name}", self.blob)]

    # ---- around every call ---------------------------------------------------------------------------------------

    def _wrap(self, template: str, endpoint: str, call: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[template] += 1
            refusal = self._refused(request, endpoint)
            if refusal is not None:
                return refusal
            context = self._context(request, template, endpoint)
            if fault := await self._fault(BEFORE, request, context):
                return fault
            try:
                answer = await call(request)
            except ServiceError as error:
                answer = reply(error.body(), status=error.status)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                answer = reply(invalid(f"{type(error).__name__} {error}").body(), status=400)
            if request.method != "GET":
                self._changed()
            if request.transport is None or request.transport.is_closing():
                return answer  # nobody is left to see a fault, and it would be drawn instead of another caller's
            return await self._fault(AFTER, request, context) or answer

        return handle

    def _context(self, request: web.Request, template: str, endpoint: str) -> dict[str, Any]:
        """Return what a fault's match is compared with."""
        found: dict[str, Any] = {"endpoint": endpoint, "method": request.method, "path": template}
        text = request.match_info.get("id", "")
        if text.isdigit():
            rents = endpoint == "rent"
            known = (self.world.asks if rents else self.world.contracts).get(int(text))
            found["ask_id" if rents else "id"] = int(text)
            if known is not None:
                found["machine_id"] = known.machine_id
        return found

    def _refused(self, request: web.Request, endpoint: str) -> web.Response | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or key not in self._keys:
            return unauthorized(endpoint)
        if self._pacing and endpoint in PACING:
            calls, window_s = PACING[endpoint]
            now = time.monotonic()
            recent = [at for at in self._calls.get(endpoint, []) if now - at < window_s]
            self._calls[endpoint] = recent
            if len(recent) >= calls:
                return reply({"detail": f"API requests too frequent endpoint threshold={window_s / calls}"}, status=429)
            recent.append(now)
        return None

    async def _fault(
        self, kinds: tuple[str, ...], request: web.Request, context: dict[str, Any]
    ) -> web.StreamResponse | None:
        rule = self.world.faults.take(*kinds, **context)
        return None if rule is None else await HANDLERS[rule.kind](rule, request)

    # ---- account and offers --------------------------------------------------------------------------------------

    async def user(self, _request: web.Request) -> web.Response:
        return reply(shapes.user(self.world.credit_left()))

    async def search(self, request: web.Request) -> web.Response:
        return reply({"offers": self.world.search(await request.json())})

    async def search_new(self, request: web.Request) -> web.Response:
        """Offers by the newer form of the same query."""
        return reply({"offers": self.world.search((await request.json())["q"])})

    async def rent(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.world.faults.take("success_false", ask_id=_id(request)):
            return reply({"success": False, "error": "temporary", "msg": "try again"})
        contract = self.world.rent(_id(request), body)
        return reply({"success": True, "new_contract": contract.id, "instance_api_key": contract.api_key})

    async def rent_many(self, request: web.Request) -> web.Response:
        """Make a contract of each offer; the reply's shape is not documented, so it is the single one's, listed."""
        body = await request.json()
        results = []
        for ask_id in body.pop("ids"):
            try:
                contract = self.world.rent(int(ask_id), dict(body))
                results.append({"success": True, "ask_id": ask_id, "new_contract": contract.id})
            except ServiceError as error:
                results.append({**error.body(), "ask_id": ask_id})
        return reply({"success": all(one["success"] for one in results), "results": results})

    # ---- reading instances ---------------------------------------------------------------------------------------

    async def show(self, request: web.Request) -> web.Response:
        """One instance; null when there is none, as the real API answers."""
        contract = self.world.shown(_id(request))
        return reply({"instances": None if contract is None else self._row(contract)})

    async def list_retired(self, _request: web.Request) -> web.Response:
        """The list that is gone."""
        raise ServiceError(410, "deprecated_endpoint", "error 410: use /api/v1/instances/")

    async def list(self, request: web.Request) -> web.Response:
        """Instances, page by page: a token is where the page before ended."""
        filters = json.loads(request.query.get("select_filters") or "{}")
        order = json.loads(request.query.get("order_by") or "[]") or [{"col": "id", "dir": "asc"}]
        for name in (*filters, *(one["col"] for one in order)):
            if name not in FILTERABLE:
                raise invalid(f"{name} is not a valid search key")
        limit = int(request.query.get("limit") or PAGE_MAX)
        limit = PAGE_OF_NONE if limit <= 0 else min(limit, PAGE_MAX)
        rows = [self._row(contract) for contract in self.world.seen()]
        rows = [row for row in rows if all(satisfies(row.get(name), ops) for name, ops in filters.items())]
        rows = ordered(rows, [(one["col"], one.get("dir", "asc")) for one in order])
        start = _after(request.query.get("after_token"), rows)
        page = rows[start : start + limit]
        more = bool(page) and start + limit < len(rows)
        labels = Counter(row["label"] or "" for row in rows)
        columns = json.loads(request.query.get("select_cols") or "null") or ["*"]
        shown = page if "*" in columns else [{key: row.get(key) for key in columns} for row in page]
        return reply(
            {
                "success": True,
                "instances_found": len(page),
                "total_instances": len(rows),
                "label_counts": dict(labels),
                "next_token": _token(page[-1]["id"]) if more else None,
                "instances": shown,
            }
        )

    async def filters(self, _request: web.Request) -> web.Response:
        """What the list can be filtered by."""
        rows = [self._row(one) for one in self.world.live()]
        names = ("actual_status", "verification", "gpu_name")
        return reply({"filters": [{name: row[name] for name in names} for row in rows]})

    def _row(self, contract: Contract) -> dict[str, Any]:
        return shapes.instance(contract, self.world.machine_of(contract), self.world.now())

    # ---- changing instances --------------------------------------------------------------------------------------

    async def manage(self, request: web.Request) -> web.Response:
        body = await request.json()
        contract = self.world.contract(_id(request))
        if "label" in body:
            label = str(body["label"] or "")
            if len(label) > LABEL_LIMIT:
                raise invalid(f"label is longer than {LABEL_LIMIT}")
            contract.label = label
        if "state" in body:
            await self.world.set_state(contract.id, _state(body))
        return reply({"success": True})

    async def manage_many(self, request: web.Request) -> web.Response:
        body = await request.json()
        for instance_id in body.get("ids") or body.get("instance_ids") or []:
            await self.world.set_state(int(instance_id), _state(body))
        return reply({"success": True})

    async def destroy(self, request: web.Request) -> web.Response:
        await self.world.destroy(_id(request))
        return reply({"success": True})

    async def destroy_many(self, request: web.Request) -> web.Response:
        for instance_id in (await request.json())["instance_ids"]:
            await self.world.destroy(int(instance_id))
        return reply({"success": True})

    async def reboot(self, request: web.Request) -> web.Response:
        """Stop the container and start it again."""
        await self.world.reboot(_id(request))
        return reply({"success": True})

    async def recycle(self, request: web.Request) -> web.Response:
        """Make the container anew, in place."""
        await self.world.reboot(_id(request), recycle=True)
        return reply({"success": True})

    async def bid(self, request: web.Request) -> web.Response:
        await self.world.bid(_id(request), (await request.json())["price"])
        return reply({"success": True})

    async def update(self, request: web.Request) -> web.Response:
        """Change image, command or environment; taken to happen by recycling, which is not documented."""
        body = await request.json()
        contract = self.world.contract(_id(request))
        changes = {name: body[name] for name in ("image", "env", "onstart") if body.get(name)}
        if body.get("args"):
            changes |= {"args": None, "args_str": str(body["args"])}
        contract.body = {**contract.body, **changes}
        if not contract.is_stopped():
            await self.world.reboot(contract.id, recycle=True)
        return reply({"success": True, "updated_instance": self._row(contract)})

    async def logs(self, request: web.Request) -> web.Response:
        """Put the end of a log where it can be fetched."""
        contract = self.world.contract(_id(request))
        body = await request.json()
        text = self.world.containers.log(contract.id, int(body.get("tail") or 1000))
        if body.get("filter"):
            text = "".join(line for line in text.splitlines(keepends=True) if str(body["filter"]) in line)
        name = f"{contract.id}-{secrets.token_hex(16)}.log"
        self._blobs[name] = text
        while len(self._blobs) > BLOBS_KEPT:
            del self._blobs[next(iter(self._blobs))]
        return reply({"success": True, "result_url": f"http://{request.host}/blob/{name}", "msg": ""})

    async def blob(self, request: web.Request) -> web.Response:
        """A stored log, for whoever knows its name."""
        text = self._blobs.get(request.match_info["name"])
        return web.Response(status=404) if text is None else web.Response(text=text)

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
        body = await request.json()
        if set(body) != {"pending_price_increase_id"}:
            raise invalid("pending_price_increase_id, and nothing else, is taken")
        contract = self.world.contracts.get(int(body["pending_price_increase_id"]))
        if contract is None or contract.destroyed_at is not None or contract.announced_dph_usd is None:
            raise ServiceError(404, "no_pending_price_increase", "There is no such pending price increase.")
        return contract

    @staticmethod
    def _answered(contract: Contract) -> web.Response:
        contract.announced_dph_usd = None
        return reply({"success": True, "pending_price_increase_id": contract.id, "contract_id": contract.id})


def _id(request: web.Request) -> int:
    return int(request.match_info["id"])


def _state(body: dict[str, Any]) -> str:
    state = str(body["state"])
    if state not in ("running", "stopped"):
        raise invalid(f"state {state} is neither running nor stopped")
    return state


def _token(instance_id: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"values": {"id": instance_id}}).encode()).decode()


def _after(token: str | None, rows: list[dict[str, Any]]) -> int:
    """Return the index at which a page begins. Raises the API's invalid_token."""
    if not token:
        return 0
    try:
        last = json.loads(base64.urlsafe_b64decode(token))["values"]["id"]
    except (ValueError, KeyError, TypeError):
        raise ServiceError(400, "invalid_token", "error 400: invalid_token") from None
    ids = [row["id"] for row in rows]
    return ids.index(last) + 1 if last in ids else sum(1 for one in ids if one <= last)
