"""The HTTP layer of the emulated API: paths, authentication, pacing, errors, faults of calls. Called by `server`.

The modules `*_routes` have the handlers: each parses the request, calls `world` or `account`, and builds the answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from emulator.access import bearer_key, is_accepted
from emulator.account_routes import AccountRoutes
from emulator.errors import ServiceError, refusal
from emulator.faults import AFTER, BEFORE
from emulator.http_faults import HANDLERS, reply
from emulator.instance_routes import InstanceRoutes
from emulator.list_routes import ListRoutes
from emulator.offer_routes import OfferRoutes
from emulator.request import Route
from emulator.world import World


class Api:
    def __init__(self, world: World, *, keys: Iterable[str], pacing: bool, save: Callable[[], None]) -> None:
        self.world = world
        self.requests: Counter[str] = Counter()
        self._keys = keys
        self._pacing = pacing
        self._save = save
        self._calls: dict[Route, list[float]] = {}
        self._account = AccountRoutes(world)
        self._instances = InstanceRoutes(world)
        self._groups = (self._account, OfferRoutes(world), ListRoutes(world), self._instances)

    def routes(self) -> list[Route]:
        """Return all emulated calls."""
        return [route for group in self._groups for route in group.routes()]

    def table(self) -> list[web.RouteDef]:
        table = []
        for route in self.routes():
            handler = self._wrap(route)
            # also //api/...: the official client keeps a slash at the end of its base URL
            for path in (route.path, route.path.rstrip("/")):
                table += [web.route(route.method, lead + path, handler) for lead in ("", "/")]
        public = {"/blob/{name}": self._instances.blob, "/static/jvastai_root.cer": self._account.root_certificate}
        return [*table, *(web.get(lead + path, handler) for path, handler in public.items() for lead in ("", "/"))]

    # ---- steps of each call --------------------------------------------------------------------------------------

    def _wrap(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[route.template] += 1
            context = self._context(request, route)
            try:
                self._authorize(request, route)
                if answer := self._check_pacing(route) or await self._apply_fault(BEFORE, request, context):
                    return answer
                answer = await route.handler(request)
            except ServiceError as error:
                answer = reply(error.body(), status=error.status)
                if error.code == "auth_error":
                    return answer
            except (ValueError, KeyError, TypeError, AttributeError):  # a wrong type in the request
                answer = reply(refusal("invalid_format").body(), status=400)
            if request.method != "GET":
                self._save()
            if request.transport is None or request.transport.is_closing():
                return answer  # the caller has disconnected: leave the fault for another call
            return await self._apply_fault(AFTER, request, context) or answer

        return handle

    def _context(self, request: web.Request, route: Route) -> dict[str, Any]:
        """Return the values to compare with the match of a fault."""
        context: dict[str, Any] = {"endpoint": route.endpoint, "method": request.method, "path": route.template}
        text = request.match_info.get("id", "")
        if text.isdecimal():
            is_rent = route.endpoint == "rent"
            target = (self.world.asks if is_rent else self.world.contracts).get(int(text))
            context["ask_id" if is_rent else "id"] = int(text)
            if target is not None:
                context["machine_id"] = target.machine_id
        return context

    def _authorize(self, request: web.Request, route: Route) -> None:
        """Raise ServiceError for a wrong or a missing key; a search needs no key."""
        key = bearer_key(request) or request.query.get("api_key", "")
        is_search = route.endpoint == "search"
        if is_accepted(key, self._keys) or (is_search and not key and "Authorization" not in request.headers):
            return
        error = refusal("wrong_key")
        if is_search:
            error.status = 404
        elif route.endpoint in ("list", "show"):
            error.status = self.world.account.wrong_key_status
        raise error

    def _check_pacing(self, route: Route) -> web.Response | None:
        """Return the refusal of a call that exceeds the rate limit of its route, else None."""
        if not self._pacing:
            return None
        now = time.monotonic()
        recent = [at for at in self._calls.get(route, []) if now - at < route.interval_s * route.burst]
        if len(recent) >= route.burst:
            return reply({"detail": f"API requests too frequent endpoint threshold={route.interval_s}"}, status=429)
        self._calls[route] = [*recent, now]
        return None

    async def _apply_fault(
        self, kinds: tuple[str, ...], request: web.Request, context: dict[str, Any]
    ) -> web.StreamResponse | None:
        rule = self.world.faults.take(*kinds, **context)
        return None if rule is None else await HANDLERS[rule.kind](rule, request)
