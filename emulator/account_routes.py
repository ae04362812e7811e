"""API calls about the account: user, ssh keys, templates, invoices, charges. Called by `routes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from emulator import account, shapes
from emulator.errors import refusal
from emulator.filters import satisfies, satisfies_all, sort_rows
from emulator.http_faults import reply
from emulator.pages import page
from emulator.request import Route, parameter, path_id, read_body
from emulator.world import World

# The async SDK client loads this certificate before its first call. Nobody has its private key.
ROOT_CERTIFICATE = Path(__file__).with_name("root.cer")
INVOICES_PAGE, CHARGES_PAGE, PAGE_MAX = 60, 100, 500
_EMPTY = {"success": True, "count": 0, "total": 0, "results": [], "next_token": None}


class AccountRoutes:
    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/v0/users/current/", "user", self.user),
            Route("GET", "/api/v0/subaccounts/", "user", self.subaccounts),
            Route("GET", "/api/v0/ssh/", "ssh", self.keys),
            Route("POST", "/api/v0/ssh/", "ssh", self.add_key),
            Route("PUT", "/api/v0/ssh/{key}/", "ssh", self.change_key),
            Route("DELETE", "/api/v0/ssh/{key}/", "ssh", self.delete_key),
            Route("GET", "/api/v0/template/", "template", self.templates, 1.9),
            Route("POST", "/api/v0/template/", "template", self.add_template),
            Route("PUT", "/api/v0/template/", "template", self.change_template),
            Route("PUT", "/api/v1/template/", "template", self.change_template),
            Route("DELETE", "/api/v0/template/", "template", self.delete_template),
            Route("GET", "/api/v1/invoices/", "invoices", self.invoices, 3.0),
            Route("GET", "/api/v0/charges/", "invoices", self.charges),
            Route("GET", "/api/v0/users/me/invoices/", "invoices", self.old_invoices),
            Route("GET", "/api/v0/invoices/", "invoices", self.invoice_items, 3.0),
        ]

    async def user(self, _request: web.Request) -> web.Response:
        return reply(shapes.user(self.world.remaining_credit(), self.world.account))

    async def subaccounts(self, _request: web.Request) -> web.Response:
        return reply({"users": []})

    @staticmethod
    async def root_certificate(_request: web.Request) -> web.Response:
        """Return a certificate at the path of Vast.ai's CA. It signs nothing here."""
        return web.Response(text=ROOT_CERTIFICATE.read_text(), content_type="application/x-x509-ca-cert")

    # ---- ssh keys ------------------------------------------------------------------------------------------------

    async def keys(self, _request: web.Request) -> web.Response:
        return reply(self.world.account.ssh_keys)

    async def add_key(self, request: web.Request) -> web.Response:
        """Add a key to the account and to all its instances."""
        key = self.world.account.add_key((await read_body(request)).get("ssh_key"), self.world.now())
        for contract in self.world.live_contracts():
            contract.ssh_keys.append(key)
        return reply({"success": True, "key": key})

    async def change_key(self, request: web.Request) -> web.Response:
        text = (await read_body(request)).get("ssh_key")
        return reply({"success": True, "key": self.world.account.change_key(path_id(request, "key"), text)})

    async def delete_key(self, request: web.Request) -> web.Response:
        self.world.account.delete_key(path_id(request, "key"))
        return reply({"success": True})

    # ---- templates -----------------------------------------------------------------------------------------------

    async def templates(self, request: web.Request) -> web.Response:
        filters = parameter(request, "select_filters", {})
        rows = [row for row in self.world.account.templates if satisfies_all(row, filters)]
        if request.query.get("order_by"):
            rows = sort_rows(rows, [(request.query["order_by"], "asc")])
        if not rows:
            return reply({"success": False, "msg": "No templates found"})
        columns = parameter(request, "select_cols", ["*"])
        if "*" not in columns:
            rows = [{name: row.get(name) for name in columns} for row in rows]
        return reply({"success": True, "templates_found": len(rows), "templates": rows})

    async def add_template(self, request: web.Request) -> web.Response:
        row = self.world.account.add_template(await read_body(request), self.world.now())
        msg = f"Template Created Successfully! New Template ID: {row['id']}"
        return reply({"success": True, "msg": msg, "template": row})

    async def change_template(self, request: web.Request) -> web.Response:
        return reply({"success": True, "template": self.world.account.change_template(await read_body(request))})

    async def delete_template(self, request: web.Request) -> web.Response:
        """Delete a template by its id; a hash alone is not accepted (documented)."""
        self.world.account.delete_template((await read_body(request)).get("template_id"))
        return reply({"success": True, "msg": "Template deleted successfully"})

    # ---- money ---------------------------------------------------------------------------------------------------

    async def invoices(self, request: web.Request) -> web.Response:
        filters = parameter(request, "select_filters", {})
        when = filters.get("when", {})
        if not {"gte", "gt"} & when.keys() or not {"lte", "lt"} & when.keys():
            return reply(_EMPTY | {"success": False, "error": "Invalid date range"})
        rows = [account.invoice(payment) for payment in self.world.account.payments if satisfies(payment["when"], when)]
        rows = [row for row in rows if satisfies(row["metadata"]["service"], filters.get("service", {}))]
        return self._reply_page(request, rows, "description", INVOICES_PAGE)

    async def charges(self, request: web.Request) -> web.Response:
        """Return the cost of each contract that existed in a range of days."""
        filters = parameter(request, "select_filters", {})
        day = filters.get("day", {})
        if not {"gte", "lte"} <= day.keys():
            raise refusal("invalid_charges_range")
        if request.query.get("format", "table") not in ("table", "tree"):
            raise refusal("invalid_query", what="format is table or tree")
        now = self.world.now()
        rows = [shapes.charge(contract, now) for contract in self.world.contracts.values()]
        rows = [row for row in rows if row["start"] <= float(day["lte"]) and row["end"] >= float(day["gte"])]
        rows = [row for row in rows if satisfies(row["type"], filters.get("type", {}))]
        return self._reply_page(request, rows, "source", CHARGES_PAGE)

    @staticmethod
    def _reply_page(request: web.Request, rows: list[dict[str, Any]], key: str, limit: int) -> web.Response:
        order = [("start", "desc" if parameter(request, "latest_first", True) else "asc")]
        limit = min(max(parameter(request, "limit", limit), 1), PAGE_MAX)
        results, token = page(rows, order, limit, request.query.get("after_token"), key=key)
        return reply(_EMPTY | {"count": len(results), "total": len(rows), "results": results, "next_token": token})

    async def old_invoices(self, request: web.Request) -> web.Response:
        """Return payments and charges in one list, and the current costs: the older form."""
        since, until = float(request.query.get("sdate", 0)), float(request.query.get("edate", 1e12))
        with_charges = request.query.get("inc_charges", "true").lower() in ("true", "1")
        items = [item for item in self._items() if with_charges or item["type"] == "payment"]
        items = [item for item in items if since <= item["timestamp"] <= until]
        used = self.world.credit_usd - self.world.remaining_credit()
        current = {"charges": used, "service_fee": 0.0, "total": used, "credit": self.world.remaining_credit()}
        return reply({"invoices": items, "current": current})

    async def invoice_items(self, request: web.Request) -> web.Response:
        """Return the same items as a bare list."""
        filters = parameter(request, "select_filters", {})
        return reply([item for item in self._items() if satisfies_all(item, filters)])

    def _items(self) -> list[dict[str, Any]]:
        now = self.world.now()
        payments = [shapes.payment_item(payment) for payment in self.world.account.payments]
        charges = [shapes.charge_item(contract, now) for contract in self.world.contracts.values()]
        return sort_rows([*payments, *charges], [("timestamp", "asc")])
