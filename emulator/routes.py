"""HTTP to the world and back: Vast's paths, its authentication, its pacing, its errors. The handlers are in the modules
`*_routes`: each parses, calls a rule and shapes the answer. Faults that act on a call are in `http_faults`, the control
API is in `control`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from emulator.access import bearer_of, is_accepted
from emulator.account_routes import AccountRoutes
from emulator.errors import ServiceError, refusal
from emulator.faults import AFTER, BEFORE
from emulator.http_faults import HANDLERS, reply
from emulator.instance_routes import InstanceRoutes
from emulator.list_routes import ListRoutes
from emulator.offer_routes import OfferRoutes
from emulator.request import Handler, Route
from emulator.world import World


class Api:
    """The emulated API over one world."""

    def __init__(self, world: World, *, keys: Iterable[str], pacing: bool, changed: Callable[[], None]) -> None:
        self.world = world
        self.requests: Counter[str] = Counter()
        self._keys = keys
        self._pacing = pacing
        self._changed = changed
        self._calls: dict[Route, list[float]] = {}
        self._account = AccountRoutes(world)
        self._instances = InstanceRoutes(world)
        self._groups = (self._account, OfferRoutes(world), ListRoutes(world), self._instances)

    def routes(self) -> list[Route]:
        """Return every call that is answered."""
        return [route for group in self._groups for route in group.routes()]

    def table(self) -> list[web.RouteDef]:
        found = []
        for route in self.routes():
            handler = self._wrap(route)
            # //api/… too: the official client does not strip a slash at the end of its address
            for path in (route.path, route.path.rstrip("/")):
                found += [web.route(route.method, lead + path, handler) for lead in ("", "/")]
        free = {"/blob/{name}": self._instances.blob, "/static/jvastai_root.cer": self._account.root_certificate}
        return [*found, *(web.get(lead + path, call) for path, call in free.items() for lead in ("", "/"))]

    # ---- around every call ---------------------------------------------------------------------------------------

    def _wrap(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[route.template] += 1
            context = self._context(request, route)
            try:
                self._authorize(request, route)
                if late := self._too_soon(route):
                    return late
                if fault := await self._fault(BEFORE, request, context):
                    return fault
                answer = await route.handler(request)
            except ServiceError as error:
                answer = reply(error.body(), status=error.status)
                if error.code == "auth_error":
                    return answer
            except (ValueError, KeyError, TypeError, AttributeError):  # of what was sent: handlers convert as they read
                answer = reply(refusal("invalid_format").body(), status=400)
            if request.method != "GET":
                self._changed()
            if request.transport is None or request.transport.is_closing():
                return answer  # nobody is left to see a fault, and it would be drawn instead of another caller's
            return await self._fault(AFTER, request, context) or answer

        return handle

    def _context(self, request: web.Request, route: Route) -> dict[str, Any]:
        """Return what a fault's match is compared with."""
        found: dict[str, Any] = {"endpoint": route.endpoint, "method": request.method, "path": route.template}
        text = request.match_info.get("id", "")
        if text.isdecimal():
            rents = route.endpoint == "rent"
            known = (self.world.asks if rents else self.world.contracts).get(int(text))
            found["ask_id" if rents else "id"] = int(text)
            if known is not None:
                found["machine_id"] = known.machine_id
        return found

    def _authorize(self, request: web.Request, route: Route) -> None:
        """Raise for a wrong key, and for none, with which only searches are answered."""
        key = bearer_of(request) or request.query.get("api_key", "")
        searches = route.endpoint == "search"
        if is_accepted(key, self._keys) or (searches and not key and "Authorization" not in request.headers):
            return
        error = refusal("wrong_key")
        if searches:
            error.status = 404
        elif route.endpoint in ("list", "show"):
            error.status = self.world.account.wrong_key_status
        raise error

    def _too_soon(self, route: Route) -> web.Response | None:
        """Return the refusal of a call that comes faster than its route takes them."""
        if not self._pacing:
            return None
        now = time.monotonic()
        recent = [at for at in self._calls.get(route, []) if now - at < route.interval_s * route.burst]
        if len(recent) >= route.burst:
            return reply({"detail": f"API requests too frequent endpoint threshold={route.interval_s}"}, status=429)
        self._calls[route] = [*recent, now]
        return None

    async def _fault(
        self, kinds: tuple[str, ...], request: web.Request, context: dict[str, Any]
    ) -> web.StreamResponse | None:
        rule = self.world.faults.take(*kinds, **context)
        return None if rule is None else await HANDLERS[rule.kind](rule, request)
