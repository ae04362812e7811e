"""`/_emulator/`: the control API for tests, with the keys of the emulated API. Called by `server`."""

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
LEDGER_FIELDS = ("id", "ask_id", "machine_id", "label", "rented_at", "destroyed_at")
SETTABLE_FIELDS = ("actual_status", "intended_status", "cur_state", "next_state", "status_msg")


class Control:
    """The control API. `save` saves the world, `delete_contracts` deletes all stored contracts."""

    def __init__(
        self,
        world: World,
        api: Api,
        clock: Clock,
        *,
        hub: bool,
        save: Callable[[], None],
        delete_contracts: Callable[[], None],
    ) -> None:
        self.world = world
        self.api = api
        self.clock = clock
        self.hub_reachable = hub
        self.heartbeat_error = ""
        self._save = save
        self._delete_contracts = delete_contracts
        self._instance_actions: dict[str, Callable[[Contract, Body], Awaitable[Any] | None]] = {
            "kill": lambda contract, _: world.kill(contract.id),
            "wedge": lambda contract, _: world.wedge(contract.id),
            "outbid": lambda contract, body: world.outbid(contract, body.get("intended")),
            "end": lambda contract, body: setattr(contract, "end_date", world.now() + float(body.get("seconds", 0))),
            "raise-price": lambda contract, body: world.raise_price(contract, _factor(body), at_once=True),
            "announce-price": lambda contract, body: world.raise_price(contract, _factor(body), at_once=False),
            "fault": lambda contract, body: self._add_fault(dict(body), id=contract.id),
            "fields": _set_fields,
            "image": lambda contract, body: contract.body.update(image=body["image"]),
            "args": lambda contract, body: contract.body.update(args=body["args"]),
        }
        self._host_actions: dict[str, Callable[[Machine, Body], Awaitable[Any] | None]] = {
            "die": lambda machine, _: hosts.set_power(world, machine, on=False),
            "revive": lambda machine, _: hosts.revive(world, machine),
            "stall": lambda machine, _: setattr(machine, "stalled", True),
            "unstall": lambda machine, _: setattr(machine, "stalled", False),
            "unreachable": lambda machine, _: hosts.set_unreachable(world, machine, on=True),
            "reachable": lambda machine, _: hosts.set_unreachable(world, machine, on=False),
            "change-ip": lambda machine, _: hosts.move(world, machine, ip=True),
            "change-port": lambda machine, _: hosts.move(world, machine, ip=False),
            "price": _set_price,
            "fault": lambda machine, body: self._add_fault(dict(body), machine_id=machine.machine_id),
        }

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/_emulator/health", self.health),
            web.get("/_emulator/ledger", self.ledger),
            web.get("/_emulator/requests", self.requests),
            web.post("/_emulator/requests/reset", self.reset_requests),
            web.get("/_emulator/hub", self.hub),
            web.get("/_emulator/faults", self.faults),
            web.post("/_emulator/faults", self.add_fault),
            web.delete("/_emulator/faults", self.remove_faults),
            web.delete("/_emulator/faults/{id}", self.remove_fault),
            web.post("/_emulator/chaos", self.chaos),
            web.post("/_emulator/reset", self.reset),
            web.post("/_emulator/credit", self.set_credit),
            web.post("/_emulator/wrong-key", self.set_wrong_key_status),
            web.post("/_emulator/time/advance", self.advance),
            web.post("/_emulator/instances/{id}/{what}", self.run_instance_action),
            web.post("/_emulator/hosts/{id}/{what}", self.run_host_action),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """Return 200 with the process id, or 500 with the error of the last failed heartbeat."""
        body = {"ok": not self.heartbeat_error, "pid": os.getpid(), "error": self.heartbeat_error}
        return reply(body, status=500 if self.heartbeat_error else 200)

    async def ledger(self, _request: web.Request) -> web.Response:
        """Return all contracts ever created, with their costs."""
        now = self.world.now()
        rows = [
            {name: getattr(contract, name) for name in LEDGER_FIELDS}
            | {
                "status": "destroyed" if contract.destroyed_at is not None else contract.actual_status,
                "cost_usd": round(contract.cost_usd(now), 6),
            }
            for contract in self.world.contracts.values()
        ]
        return reply({"contracts": rows, "fired": self.world.faults.fired})

    async def requests(self, _request: web.Request) -> web.Response:
        """Return the number of calls per method and path."""
        return reply({"requests": dict(self.api.requests), "total": sum(self.api.requests.values())})

    async def reset_requests(self, _request: web.Request) -> web.Response:
        self.api.requests.clear()
        return reply({"ok": True})

    async def hub(self, _request: web.Request) -> web.Response:
        """Return whether containers can reach the model hub."""
        return reply({"reachable": self.hub_reachable})

    # ---- faults --------------------------------------------------------------------------------------------------

    async def faults(self, _request: web.Request) -> web.Response:
        """Return the fault kinds, the active rules, and how often each kind fired."""
        rules = [vars(rule) for rule in self.world.faults.rules]
        variants = {"app_error": sorted(APP_ERRORS)}
        return reply({"kinds": KINDS, "variants": variants, "rules": rules, "fired": self.world.faults.fired})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Add a fault: {"kind", "match": {...}, "times": N, ...parameters}."""
        try:
            return self._reply_ok(id=await self._add_fault(await request.json()))
        except ValueError as error:
            return reply({"error": str(error)}, status=400)

    async def _add_fault(self, body: Body, **match: Any) -> int:
        kind, match, times = body.pop("kind", None), body.pop("match", {}) | match, body.pop("times", None)
        params = body | body.pop("params", {})
        server_faults.check(kind, params, self.world.containers.settings.runtime)
        rule = self.world.faults.add(kind, match, times, params)
        if kind in SERVER:
            await heartbeat.advance(self.world)
        return rule.id

    async def remove_faults(self, _request: web.Request) -> web.Response:
        """Remove all faults: stuck boots continue, servers recover."""
        self.world.faults.clear()
        await server_faults.remove(self.world)
        for contract in self.world.live_contracts():
            if contract.boot_fault in ("stuck_created", "stuck_loading"):
                contract.boot_fault, contract.booted_at = "", self.world.now()
        return self._reply_ok()

    async def remove_fault(self, request: web.Request) -> web.Response:
        rule_id = int(request.match_info["id"])
        self.world.faults.remove(rule_id)
        await server_faults.remove(self.world, rule_id)
        return self._reply_ok()

    async def chaos(self, request: web.Request) -> web.Response:
        """Add faults that fire at random with probability `rate`: {"seed", "rate", "kinds"}."""
        body = await request.json()
        kinds = body.get("kinds", CHAOS)
        try:
            for kind in kinds:
                server_faults.check(kind, {}, self.world.containers.settings.runtime)
            self.world.faults.chaos(int(body["seed"]), float(body.get("rate", 0.05)), kinds)
        except ValueError as error:
            return reply({"error": str(error)}, status=400)
        return self._reply_ok()

    # ---- the world -----------------------------------------------------------------------------------------------

    async def reset(self, _request: web.Request) -> web.Response:
        await self.world.reset()
        self.heartbeat_error = ""
        self.api.requests.clear()
        self._delete_contracts()
        return self._reply_ok()

    async def set_credit(self, request: web.Request) -> web.Response:
        """Set the remaining credit: {"credit"}."""
        self.world.pay(float((await request.json())["credit"]) - self.world.remaining_credit())
        return self._reply_ok(credit=self.world.remaining_credit())

    async def set_wrong_key_status(self, request: web.Request) -> web.Response:
        """Set the HTTP status for a wrong key when instances are read: {"status"}, 401 or 404."""
        self.world.account.wrong_key_status = int((await request.json())["status"])
        return self._reply_ok()

    async def advance(self, request: web.Request) -> web.Response:
        """Advance the clock: {"seconds"}."""
        self.clock.advance(float((await request.json())["seconds"]))
        await heartbeat.advance(self.world)
        return self._reply_ok(now=self.world.now())

    async def run_instance_action(self, request: web.Request) -> web.Response:
        """Run an action on a contract: kill, wedge, outbid, end, raise-price, fault, and so on."""
        try:
            contract = self.world.get_contract(int(request.match_info["id"]))
        except (ServiceError, ValueError) as error:
            return reply({"error": str(error)}, status=404)
        return await self._run_action(self._instance_actions, [contract], request)

    async def run_host_action(self, request: web.Request) -> web.Response:
        """Run an action on a machine, or on `all`: die, revive, stall, unreachable, price, fault, and so on."""
        machine_id = request.match_info["id"]
        machines = [item for item in self.world.machines.values() if machine_id in ("all", str(item.machine_id))]
        if not machines:
            return reply({"error": f"no machine {machine_id}"}, status=404)
        return await self._run_action(self._host_actions, machines, request)

    async def _run_action(self, actions: dict[str, Any], targets: list[Any], request: web.Request) -> web.Response:
        action = actions.get(request.match_info["what"])
        if action is None:
            return reply({"error": f"unknown: {request.match_info['what']}; known: {', '.join(actions)}"}, status=400)
        body = await request.json() if request.can_read_body else {}
        try:
            for target in targets:
                pending = action(target, body)
                if pending is not None:
                    await pending
        except (KeyError, TypeError, ValueError) as error:
            return reply({"error": f"{type(error).__name__}: {error}"}, status=400)
        return self._reply_ok()

    def _reply_ok(self, **fields: Any) -> web.Response:
        self._save()
        return reply({"ok": True, **fields})


def _factor(body: Body) -> float:
    return float(body.get("factor", 1.5))


def _set_fields(contract: Contract, body: Body) -> None:
    for name in SETTABLE_FIELDS:
        setattr(contract, name, body.get(name, getattr(contract, name)))


def _set_price(machine: Machine, body: Body) -> None:
    machine.dph_base_usd = float(body.get("dph_usd", machine.dph_base_usd))
    machine.min_bid_usd = float(body.get("min_bid_usd", machine.min_bid_usd))
