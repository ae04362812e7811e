"""`/_emulator/`: what a test may look at and do. Apart from the emulated API, without a key, on loopback only."""

from __future__ import annotations

import os
from collections.abc import Callable

from aiohttp import web

from emulator.clock import Clock
from emulator.errors import ServiceError
from emulator.faults import KINDS
from emulator.routes import Api
from emulator.world import World


class Control:
    """The control API over one world."""

    def __init__(self, world: World, api: Api, clock: Clock, *, hub: bool, changed: Callable[[], None]) -> None:
        self.world = world
        self.api = api
        self.clock = clock
        self.hub_reachable = hub
        self._changed = changed

    def table(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/_emulator/health", self.health),
            web.get("/_emulator/ledger", self.ledger),
            web.get("/_emulator/requests", self.requests),
            web.post("/_emulator/requests/reset", self.requests_reset),
            web.get("/_emulator/hub", self.hub),
            web.get("/_emulator/faults", self.faults),
            web.post("/_emulator/faults", self.fault_on),
            web.delete("/_emulator/faults", self.faults_off),
            web.post("/_emulator/reset", self.reset),
            web.post("/_emulator/credit", self.credit),
            web.post("/_emulator/time/advance", self.advance),
            web.post("/_emulator/instances/{id}/{what}", self.instance),
            web.post("/_emulator/hosts/{id}/{what}", self.host),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """Up."""
        return web.json_response({"ok": True, "pid": os.getpid()})

    async def ledger(self, _request: web.Request) -> web.Response:
        """Every contract ever made, and its cost."""
        now = self.world.now()
        rows = [
            {
                "id": one.id,
                "ask_id": one.ask_id,
                "machine_id": one.machine_id,
                "label": one.label,
                "rented_at": one.rented_at,
                "destroyed_at": one.destroyed_at,
                "status": one.actual_status,
                "cost_usd": round(one.cost_usd(now), 6),
            }
            for one in self.world.contracts.values()
        ]
        return web.json_response({"contracts": rows, "fired": self.world.faults.fired})

    async def requests(self, _request: web.Request) -> web.Response:
        """Calls counted by method and path."""
        return web.json_response({"requests": dict(self.api.requests), "total": sum(self.api.requests.values())})

    async def requests_reset(self, _request: web.Request) -> web.Response:
        """Count anew."""
        self.api.requests.clear()
        return web.json_response({"ok": True})

    async def hub(self, _request: web.Request) -> web.Response:
        """Whether containers reach the model hub."""
        return web.json_response({"reachable": self.hub_reachable})

    async def faults(self, _request: web.Request) -> web.Response:
        """Known kinds, rules that are on, and how often each kind fired."""
        rules = [vars(rule) for rule in self.world.faults.rules]
        return web.json_response({"kinds": KINDS, "rules": rules, "fired": self.world.faults.fired})

    async def fault_on(self, request: web.Request) -> web.Response:
        """Switch a fault on: {"kind", "match": {...}, "times": N, ...parameters}."""
        body = await request.json()
        kind, match, times = body.pop("kind"), body.pop("match", {}), body.pop("times", None)
        try:
            rule = self.world.faults.add(kind, match, times, body)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"id": rule.id})

    async def faults_off(self, _request: web.Request) -> web.Response:
        """Switch all faults off; boots that one of them holds up go on."""
        self.world.faults.clear()
        for contract in self.world.live():
            if contract.boot_fault == "stuck_loading":
                contract.boot_fault, contract.booted_at = "", self.world.now()
        return web.json_response({"ok": True})

    async def reset(self, _request: web.Request) -> web.Response:
        """Destroy everything and forget it."""
        for contract in list(self.world.live()):
            await self.world.destroy(contract.id)
        self.world.contracts.clear()
        self.world.faults.clear()
        for machine in self.world.machines.values():
            machine.rented_by, machine.alive, machine.stalled, machine.unreachable = None, True, False, False
        self._changed()
        return web.json_response({"ok": True})

    async def credit(self, request: web.Request) -> web.Response:
        """Set the credit that is left."""
        spent = self.world.credit_usd - self.world.credit_left()
        self.world.credit_usd = float((await request.json())["credit"]) + spent
        return web.json_response({"credit": self.world.credit_left()})

    async def advance(self, request: web.Request) -> web.Response:
        """Let time jump."""
        self.clock.advance(float((await request.json())["seconds"]))
        await self.world.advance()
        return web.json_response({"now": self.world.now()})

    async def instance(self, request: web.Request) -> web.Response:
        """Do something to a contract: kill, outbid, end, raise-price, announce-price, set (any field)."""
        try:
            contract = self.world.contract(int(request.match_info["id"]))
        except ServiceError as error:
            return web.json_response(error.body(), status=404)
        what = request.match_info["what"]
        body = await request.json() if request.can_read_body else {}
        if what == "kill":
            await self.world.kill(contract.id)
        elif what == "outbid":
            contract.is_bid, contract.price_usd = True, contract.price_usd or contract.dph_base_usd
            await self.world.stop(contract, by_market=True)
        elif what == "end":
            contract.end_date = self.world.now() + float(body.get("seconds", 0))
        elif what == "raise-price":
            contract.dph_base_usd *= float(body.get("factor", 1.5))
        elif what == "announce-price":
            contract.announced_dph_usd = contract.dph_base_usd * float(body.get("factor", 1.5))
        elif what == "wedge":  # the container runs, its server answers no more
            if contract.process is not None:
                contract.process.kill()
                contract.process = None
            await self.world.containers.stop(contract.id)
        elif what == "fields":  # what the API says of it, word for word
            for name in ("actual_status", "intended_status", "cur_state", "next_state", "status_msg"):
                setattr(contract, name, body.get(name, getattr(contract, name)))
        elif what == "image":
            contract.body["image"] = body["image"]
        elif what == "args":
            contract.body["args"] = body["args"]
        else:
            return web.json_response({"error": f"unknown: {what}"}, status=400)
        self._changed()
        return web.json_response({"ok": True})

    async def host(self, request: web.Request) -> web.Response:
        """Do something to a machine: die, revive, stall, unstall, change-ip, change-port."""
        machine = self.world.machines[int(request.match_info["id"])]
        what = request.match_info["what"]
        if what in ("die", "revive"):
            machine.alive = what == "revive"
            for contract in self.world.live():
                if contract.machine_id == machine.machine_id and what == "die":
                    await self.world.kill(contract.id)
                    contract.actual_status = None
        elif what in ("stall", "unstall"):
            machine.stalled = what == "stall"
        elif what in ("change-ip", "change-port"):
            await self.world.move(machine, ip=what == "change-ip")
        elif what in ("unreachable", "reachable"):
            await self.world.black_hole(machine, on=what == "unreachable")
        else:
            return web.json_response({"error": f"unknown: {what}"}, status=400)
        self._changed()
        return web.json_response({"ok": True})
