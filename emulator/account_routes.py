"""Calls about the account: who it is, ssh keys, templates, invoices, charges. Parses, calls a rule, shapes answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from emulator import account, shapes
from emulator.errors import refusal
from emulator.filters import ordered, satisfies
from emulator.http_faults import reply
from emulator.pages import page
from emulator.request import Route, body_of, parameter, path_id
from emulator.world import World

# Made for the emulator, its key thrown away: the asynchronous SDK client loads it before its first call.
ROOT_CERTIFICATE = Path(__file__).with_name("root.cer")
INVOICES_PAGE, CHARGES_PAGE, PAGE_MOST = 60, 100, 500
_EMPTY = {"success": True, "count": 0, "total": 0, "results": [], "next_token": None}


class AccountRoutes:
    """Handlers of the account's calls over one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/v0/users/current/", "user", self.user),
            Route("GET", "/api/v0/subaccounts/", "user", self.subaccounts),
            Route("GET", "/api/v0/ssh/", "ssh", self.keys),
            Route("POST", "/api/v0/ssh/", "ssh", self.key_added),
            Route("PUT", "/api/v0/ssh/{key}/", "ssh", self.key_changed),
            Route("DELETE", "/api/v0/ssh/{key}/", "ssh", self.key_dropped),
            Route("GET", "/api/v0/template/", "template", self.templates, 1.9),
            Route("POST", "/api/v0/template/", "template", self.template_added),
            Route("PUT", "/api/v0/template/", "template", self.template_changed),
            Route("PUT", "/api/v1/template/", "template", self.template_changed),
            Route("DELETE", "/api/v0/template/", "template", self.template_dropped),
            Route("GET", "/api/v1/invoices/", "invoices", self.invoices, 3.0),
            Route("GET", "/api/v0/charges/", "invoices", self.charges),
            Route("GET", "/api/v0/users/me/invoices/", "invoices", self.old_invoices),
            Route("GET", "/api/v0/invoices/", "invoices", self.invoice_items, 3.0),
        ]

    async def user(self, _request: web.Request) -> web.Response:
        return reply(shapes.user(self.world.credit_left(), self.world.account))

    async def subaccounts(self, _request: web.Request) -> web.Response:
        """There are none."""
        return reply({"users": []})

    @staticmethod
    async def root_certificate(_request: web.Request) -> web.Response:
        """A certificate where Vast.ai's own CA is; no container's port is signed by it."""
        return web.Response(text=ROOT_CERTIFICATE.read_text(), content_type="application/x-x509-ca-cert")

    # ---- ssh keys ------------------------------------------------------------------------------------------------

    async def keys(self, _request: web.Request) -> web.Response:
        return reply(self.world.account.ssh_keys)

    async def key_added(self, request: web.Request) -> web.Response:
        """Add a key to the account, and to all its instances."""
        key = self.world.account.add_key((await body_of(request)).get("ssh_key"), self.world.now())
        for contract in self.world.live():
            contract.ssh_keys.append(key)
        return reply({"success": True, "key": key})

    async def key_changed(self, request: web.Request) -> web.Response:
        text = (await body_of(request)).get("ssh_key")
        return reply({"success": True, "key": self.world.account.change_key(path_id(request, "key"), text)})

    async def key_dropped(self, request: web.Request) -> web.Response:
        self.world.account.drop_key(path_id(request, "key"))
        return reply({"success": True})

    # ---- templates -----------------------------------------------------------------------------------------------

    async def templates(self, request: web.Request) -> web.Response:
        filters = parameter(request, "select_filters", {})
        found = [
            row
            for row in self.world.account.templates
            if all(satisfies(row.get(name), ops) for name, ops in filters.items())
        ]
        if request.query.get("order_by"):
            found = ordered(found, [(request.query["order_by"], "asc")])
        if not found:
            return reply({"success": False, "msg": "No templates found"})
        columns = parameter(request, "select_cols", ["*"])
        rows = found if "*" in columns else [{name: row.get(name) for name in columns} for row in found]
        return reply({"success": True, "templates_found": len(rows), "templates": rows})

    async def template_added(self, request: web.Request) -> web.Response:
        row = self.world.account.add_template(await body_of(request), self.world.now())
        msg = f"Template Created Successfully! New Template ID: {row['id']}"
        return reply({"success": True, "msg": msg, "template": row})

    async def template_changed(self, request: web.Request) -> web.Response:
        return reply({"success": True, "template": self.world.account.change_template(await body_of(request))})

    async def template_dropped(self, request: web.Request) -> web.Response:
        """Delete a template by its id; by its hash alone none is, as the description says."""
        self.world.account.drop_template((await body_of(request)).get("template_id"))
        return reply({"success": True, "msg": "Template deleted successfully"})

    # ---- money ---------------------------------------------------------------------------------------------------

    async def invoices(self, request: web.Request) -> web.Response:
        filters = parameter(request, "select_filters", {})
        when = filters.get("when", {})
        if not {"gte", "gt"} & when.keys() or not {"lte", "lt"} & when.keys():
            return reply(_EMPTY | {"success": False, "error": "Invalid date range"})
        rows = [account.invoice(one) for one in self.world.account.payments if satisfies(one["when"], when)]
        found = [one for one in rows if satisfies(one["metadata"]["service"], filters.get("service", {}))]
        return self._paged(request, found, "description", INVOICES_PAGE)

    async def charges(self, request: web.Request) -> web.Response:
        """What each contract has cost, of those that were there in a range of days."""
        filters = parameter(request, "select_filters", {})
        day = filters.get("day", {})
        if not {"gte", "lte"} <= day.keys():
            raise refusal("invalid_charges_range")
        if request.query.get("format", "table") not in ("table", "tree"):
            raise refusal("invalid_query", what="format is table or tree")
        now = self.world.now()
        rows = [shapes.charge(one, now) for one in self.world.contracts.values()]
        there = [one for one in rows if one["start"] <= float(day["lte"]) and one["end"] >= float(day["gte"])]
        found = [one for one in there if satisfies(one["type"], filters.get("type", {}))]
        return self._paged(request, found, "source", CHARGES_PAGE)

    @staticmethod
    def _paged(request: web.Request, rows: list[dict[str, Any]], key: str, limit: int) -> web.Response:
        order = [("start", "desc" if parameter(request, "latest_first", True) else "asc")]
        limit = min(max(parameter(request, "limit", limit), 1), PAGE_MOST)
        shown, token = page(rows, order, limit, request.query.get("after_token"), key=key)
        return reply(_EMPTY | {"count": len(shown), "total": len(rows), "results": shown, "next_token": token})

    async def old_invoices(self, request: web.Request) -> web.Response:
        """Payments and charges in one list, with what has not been charged yet: the older form."""
        since, until = float(request.query.get("sdate", 0)), float(request.query.get("edate", 1e12))
        with_charges = request.query.get("inc_charges", "true").lower() in ("true", "1")
        items = [one for one in self._items() if with_charges or one["type"] == "payment"]
        used = self.world.credit_usd - self.world.credit_left()
        current = {"charges": used, "service_fee": 0.0, "total": used, "credit": self.world.credit_left()}
        return reply({"invoices": [one for one in items if since <= one["timestamp"] <= until], "current": current})

    async def invoice_items(self, request: web.Request) -> web.Response:
        """The same items as a bare list."""
        filters = parameter(request, "select_filters", {})
        return reply(
            [one for one in self._items() if all(satisfies(one.get(name), ops) for name, ops in filters.items())]
        )

    def _items(self) -> list[dict[str, Any]]:
        now = self.world.now()
        paid = [shapes.payment_item(one) for one in self.world.account.payments]
        charged = [shapes.charge_item(one, now) for one in self.world.contracts.values()]
        return ordered([*paid, *charged], [("timestamp", "asc")])
