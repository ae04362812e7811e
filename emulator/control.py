"""`/_emulator/`: the control API for tests. Apart from the emulated API, with the same keys."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from emulator import heartbeat, hosts, server_faults
from emulator.clock import Clock
from emulator.contract import Contract
from emulator.errors import ServiceError
from emulator.faults import APP_ERRORS, CHAOS, KINDS, SERVER
from emulator.http_faults import reply
from emulator.market import Machine
from emulator.routes import Api
from emulator.world import World

Body = dict[str, Any]
STATED = ("actual_status", "intended_status", "cur_state", "next_state", "status_msg")


class Control:
    """The control API over one world. `changed` saves the world, `forget` drops what is stored of contracts."""

    def __init__(
        self,
        world: World,
        api: Api,
        clock: Clock,
        *,
        hub: bool,
        changed: Callable[[], None],
        forget: Callable[[], None],
    ) -> None:
        self.world = world
        self.api = api
        self.clock = clock
        self.hub_reachable = hub
        self.trouble = ""  # what the heartbeat last failed at
        self._changed = changed
        self._forget = forget
        self._to_instance: dict[str, Callable[[Contract, Body], Awaitable[Any] | None]] = {
            "kill": lambda one, _: world.kill(one.id),
            "wedge": lambda one, _: world.wedge(one.id),
            "outbid": lambda one, body: world.outbid(one, body.get("intended")),
            "end": lambda one, body: setattr(one, "end_date", world.now() + float(body.get("seconds", 0))),
            "raise-price": lambda one, body: world.raise_price(one, float(body.get("factor", 1.5)), at_once=True),
            "announce-price": lambda one, body: world.raise_price(one, float(body.get("factor", 1.5)), at_once=False),
            "fault": lambda one, body: self._fault_on(dict(body), id=one.id),
            "fields": self._set,
            "image": lambda one, body: one.body.update(image=body["image"]),
            "args": lambda one, body: one.body.update(args=body["args"]),
        }
        self._to_host: dict[str, Callable[[Machine, Body], Awaitable[Any] | None]] = {
            "die": lambda one, _: hosts.set_power(world, one, on=False),
            "revive": lambda one, _: hosts.revive(world, one),
            "stall": lambda one, _: setattr(one, "stalled", True),
            "unstall": lambda one, _: setattr(one, "stalled", False),
            "unreachable": lambda one, _: hosts.set_unreachable(world, one, on=True),
            "reachable": lambda one, _: hosts.set_unreachable(world, one, on=False),
            "change-ip": lambda one, _: hosts.move(world, one, ip=True),
            "change-port": lambda one, _: hosts.move(world, one, ip=False),
            "price": self._price,
            "fault": lambda one, body: self._fault_on(dict(body), machine_id=one.machine_id),
        }

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/_emulator/health", self.health),
            web.get("/_emulator/ledger", self.ledger),
            web.get("/_emulator/requests", self.requests),
            web.post("/_emulator/requests/reset", self.requests_reset),
            web.get("/_emulator/hub", self.hub),
            web.get("/_emulator/faults", self.faults),
            web.post("/_emulator/faults", self.fault_on),
            web.delete("/_emulator/faults", self.faults_off),
            web.delete("/_emulator/faults/{id}", self.fault_off),
            web.post("/_emulator/chaos", self.chaos),
            web.post("/_emulator/reset", self.reset),
            web.post("/_emulator/credit", self.credit),
            web.post("/_emulator/wrong-key", self.wrong_key),
            web.post("/_emulator/time/advance", self.advance),
            web.post("/_emulator/instances/{id}/{what}", self.instance),
            web.post("/_emulator/hosts/{id}/{what}", self.host),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """Up, and whether contracts move along."""
        body = {"ok": not self.trouble, "pid": os.getpid(), "error": self.trouble}
        return reply(body, status=500 if self.trouble else 200)

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
                "status": "destroyed" if one.destroyed_at is not None else one.actual_status,
                "cost_usd": round(one.cost_usd(now), 6),
            }
            for one in self.world.contracts.values()
        ]
        return reply({"contracts": rows, "fired": self.world.faults.fired})

    async def requests(self, _request: web.Request) -> web.Response:
        """Calls counted by method and path."""
        return reply({"requests": dict(self.api.requests), "total": sum(self.api.requests.values())})

    async def requests_reset(self, _request: web.Request) -> web.Response:
        self.api.requests.clear()
        return reply({"ok": True})

    async def hub(self, _request: web.Request) -> web.Response:
        """Whether containers reach the model hub."""
        return reply({"reachable": self.hub_reachable})

    # ---- faults --------------------------------------------------------------------------------------------------

    async def faults(self, _request: web.Request) -> web.Response:
        """Known kinds, rules that are on, and how often each kind fired."""
        rules = [vars(rule) for rule in self.world.faults.rules]
        variants = {"app_error": sorted(APP_ERRORS)}
        return reply({"kinds": KINDS, "variants": variants, "rules": rules, "fired": self.world.faults.fired})

    async def fault_on(self, request: web.Request) -> web.Response:
        """Switch a fault on: {"kind", "match": {...}, "times": N, ...parameters}."""
        try:
            return self._done(id=await self._fault_on(await request.json()))
        except ValueError as error:
            return reply({"error": str(error)}, status=400)

    async def _fault_on(self, body: Body, **match: Any) -> int:
        kind, match, times = body.pop("kind", None), body.pop("match", {}) | match, body.pop("times", None)
        params = body | body.pop("params", {})
        server_faults.check(kind, params, self.world.containers.settings.runtime)
        rule = self.world.faults.add(kind, match, times, params)
        if kind in SERVER:
            await heartbeat.advance(self.world)
        return rule.id

    async def faults_off(self, _request: web.Request) -> web.Response:
        """Switch all faults off; boots that one of them holds up go on, servers are well again."""
        self.world.faults.clear()
        await server_faults.lift(self.world)
        for contract in self.world.live():
            if contract.boot_fault == "stuck_loading":
                contract.boot_fault, contract.booted_at = "", self.world.now()
        return self._done()

    async def fault_off(self, request: web.Request) -> web.Response:
        rule_id = int(request.match_info["id"])
        self.world.faults.remove(rule_id)
        await server_faults.lift(self.world, rule_id)
        return self._done()

    async def chaos(self, request: web.Request) -> web.Response:
        """Let faults of every kind fire at random, on a share of occasions: {"seed", "rate", "kinds"}."""
        body = await request.json()
        kinds = body.get("kinds", CHAOS)
        try:
            for kind in kinds:
                server_faults.check(kind, {}, self.world.containers.settings.runtime)
            self.world.faults.chaos(int(body["seed"]), float(body.get("rate", 0.05)), kinds)
        except ValueError as error:
            return reply({"error": str(error)}, status=400)
        return self._done()

    # ---- the world -----------------------------------------------------------------------------------------------

    async def reset(self, _request: web.Request) -> web.Response:
        await self.world.reset()
        self.trouble = ""
        self.api.requests.clear()
        self._forget()
        return self._done()

    async def credit(self, request: web.Request) -> web.Response:
        """Set the credit that is left: {"credit"}."""
        self.world.pay(float((await request.json())["credit"]) - self.world.credit_left())
        return self._done(credit=self.world.credit_left())

    async def wrong_key(self, request: web.Request) -> web.Response:
        """Set what a wrong key gets when instances are read: {"status"}, 401 as documented or 404 as seen live."""
        self.world.account.wrong_key_status = int((await request.json())["status"])
        return self._done()

    async def advance(self, request: web.Request) -> web.Response:
        """Let time jump: {"seconds"}."""
        self.clock.advance(float((await request.json())["seconds"]))
        await heartbeat.advance(self.world)
        return self._done(now=self.world.now())

    async def instance(self, request: web.Request) -> web.Response:
        """Do something to a contract: kill, wedge, outbid, end, raise-price, fault, and so on."""
        try:
            contract = self.world.contract(int(request.match_info["id"]))
        except (ServiceError, ValueError) as error:
            return reply({"error": str(error)}, status=404)
        return await self._act(self._to_instance, [contract], request)

    async def host(self, request: web.Request) -> web.Response:
        """Do something to a machine, or to `all`: die, revive, stall, unreachable, price, fault, and so on."""
        wanted = request.match_info["id"]
        machines = [one for one in self.world.machines.values() if wanted in ("all", str(one.machine_id))]
        if not machines:
            return reply({"error": f"no machine {wanted}"}, status=404)
        return await self._act(self._to_host, machines, request)

    async def _act(self, table: dict[str, Any], ones: list[Any], request: web.Request) -> web.Response:
        act = table.get(request.match_info["what"])
        if act is None:
            return reply({"error": f"unknown: {request.match_info['what']}; known: {', '.join(table)}"}, status=400)
        body = await request.json() if request.can_read_body else {}
        try:
            for one in ones:
                pending = act(one, body)
                if pending is not None:
                    await pending
        except (KeyError, TypeError, ValueError) as error:
            return reply({"error": f"{type(error).__name__}: {error}"}, status=400)
        return self._done()

    @staticmethod
    def _set(contract: Contract, body: Body) -> None:
        """Let the API say of a contract what the body says, word for word."""
        for name in STATED:
            setattr(contract, name, body.get(name, getattr(contract, name)))

    @staticmethod
    def _price(machine: Machine, body: Body) -> None:
        machine.dph_base_usd = float(body.get("dph_usd", machine.dph_base_usd))
        machine.min_bid_usd = float(body.get("min_bid_usd", machine.min_bid_usd))

    def _done(self, **more: Any) -> web.Response:
        self._changed()
        return reply({"ok": True, **more})
