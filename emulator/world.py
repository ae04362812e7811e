"""The rules of the market: renting, booting, stopping, destroying, billing. Knows no HTTP; time is passed in by `now`.

Called by `routes` and `control`, and by the server's heartbeat (`advance`), which moves contracts along.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from typing import Any

from emulator.contract import Contract
from emulator.errors import ServiceError, invalid, no_such_ask, no_such_instance
from emulator.faults import BOOT, Faults
from emulator.filters import select
from emulator.market import Machine
from emulator.process import NotExecutable
from emulator.runtime import Containers, free_port

COMMAND_LIMIT = 4096
MIN_DISK_GB = 8
FIRST_CONTRACT = 31_000_001
IMAGE_GB = 12.6
QUEUED = "Required resources are currently unavailable, state change queued."


class World:
    """Machines, contracts, credit."""

    def __init__(
        self,
        machines: dict[int, Machine],
        containers: Containers,
        *,
        now: Callable[[], float],
        timing: Callable[[Machine], tuple[float, float, float]],
        seed: int = 7,
    ) -> None:
        self.machines = machines
        self.asks = {machine.ask_id: machine for machine in machines.values()}
        self.containers = containers
        self.contracts: dict[int, Contract] = {}
        self.faults = Faults()
        self.credit_usd = 25.0
        self.next_id = FIRST_CONTRACT + secrets.randbelow(900_000) * 10  # no two markets share ids
        self.now = now
        self._timing = timing
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._busy = asyncio.Lock()

    # ---- reading -------------------------------------------------------------------------------------------------

    def search(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return offers for a query as the API takes it."""
        storage = float(query.get("allocated_storage") or 8.0)
        bid = query.get("type") in ("bid", "interruptible")
        offers = [
            machine.offer(now=self.now(), storage_gb=storage, bid=bid)
            for machine in self.machines.values()
            if machine.rented_by is None and machine.alive
        ]
        return select(offers, query)

    def live(self) -> list[Contract]:
        """Return the contracts that exist and can be seen."""
        return [one for one in self.contracts.values() if one.destroyed_at is None and one.visible_at <= self.now()]

    def contract(self, instance_id: int) -> Contract:
        """Return one contract. Raises the API's no_such_instance."""
        found = self.contracts.get(instance_id)
        if found is None or found.destroyed_at is not None or found.visible_at > self.now():
            raise no_such_instance(instance_id)
        return found

    def machine_of(self, contract: Contract) -> Machine:
        """Return the machine that a contract runs on."""
        return self.machines[contract.machine_id]

    def credit_left(self) -> float:
        """Return the account's credit after what all contracts have cost."""
        return self.credit_usd - sum(one.cost_usd(self.now()) for one in self.contracts.values())

    # ---- renting -------------------------------------------------------------------------------------------------

    def rent(self, ask_id: int, body: dict[str, Any]) -> Contract:
        """Make a contract, as `PUT /asks/{id}/` does. Raises ServiceError."""
        machine = self.asks.get(ask_id)
        if machine is None or machine.rented_by is not None or not machine.alive:
            raise no_such_ask(ask_id)
        if self.faults.take("offer_taken", ask_id=ask_id, machine_id=machine.machine_id):
            machine.rented_by = -1  # somebody else has it now
            raise no_such_ask(ask_id)
        if self.faults.take("no_credit") or self.credit_left() <= 0:
            raise ServiceError(400, "insufficient_credit", "error 400: insufficient_credit: add credit to your account")
        self._validate(body, machine)
        contract = self._contract(machine, body)
        price = body.get("price")
        if price is not None and float(price) < machine.min_bid_usd:
            contract.intended_status = contract.cur_state = contract.next_state = "stopped"
            contract.actual_status = "created"
            self.contracts[contract.id] = contract
            raise ServiceError(
                400, "invalid_price", f"error 400: bid {price} is below {machine.min_bid_usd}", new_contract=contract.id
            )
        self.contracts[contract.id] = contract
        machine.rented_by = contract.id
        return contract

    @staticmethod
    def _validate(body: dict[str, Any], machine: Machine) -> None:
        args = body.get("args") or []
        size = (
            sum(len(str(one)) for one in args)
            + len(str(body.get("args_str") or ""))
            + len(str(body.get("onstart") or ""))
        )
        if not body.get("image") and not body.get("template_hash_id"):
            raise invalid("image is required")
        if size > COMMAND_LIMIT:
            raise invalid(f"combined length of args, args_str and onstart is {size}, the limit is {COMMAND_LIMIT}")
        disk = float(body.get("disk") or 10)
        if disk < MIN_DISK_GB or disk > machine.facts["disk_space"]:
            raise invalid(f"disk {disk:g} is not between {MIN_DISK_GB} and {machine.facts['disk_space']:g}")
        if not isinstance(body.get("env") or {}, dict):
            raise invalid("env must be an object")
        if len(str(body.get("label") or "")) > 256:
            raise invalid("label is longer than 256")

    def _contract(self, machine: Machine, body: dict[str, Any]) -> Contract:
        contract_id, self.next_id = self.next_id, self.next_id + self._dice.randint(1, 9)
        created, pull, start = self._timing(machine)
        rule = self.faults.take(*BOOT, machine_id=machine.machine_id, ask_id=machine.ask_id)
        lag = self.faults.take("lag", machine_id=machine.machine_id)
        price = body.get("price")
        now = self.now()
        disk = float(body.get("disk") or 10)
        return Contract(
            id=contract_id,
            machine_id=machine.machine_id,
            ask_id=machine.ask_id,
            body=body,
            label=str(body.get("label") or ""),
            rented_at=now,
            booted_at=now,
            created_s=created,
            pull_s=pull,
            start_s=start,
            dph_base_usd=machine.dph_base_usd,
            dph_disk_usd=machine.disk_dph(disk),
            pull_cost_usd=IMAGE_GB * machine.facts["inet_down_cost"],
            end_date=machine.end_date,
            api_key=secrets.token_hex(32),
            is_bid=price is not None,
            price_usd=float(price or 0.0),
            visible_at=now + float(lag.params.get("seconds", 2.0)) if lag else now,
            boot_fault=rule.kind if rule else "",
            fault_params=rule.params if rule else {},
        )

    # ---- changing ------------------------------------------------------------------------------------------------

    async def destroy(self, instance_id: int) -> None:
        """End a contract; returns once its process is gone."""
        contract = self.contract(instance_id)
        async with self._busy:
            await self._halt(contract)
            contract.destroyed_at = self.now()
        machine = self.machines[contract.machine_id]
        if machine.rented_by == contract.id:
            machine.rented_by = None

    async def set_state(self, instance_id: int, state: str) -> None:
        """Start or stop an instance; a start without a free GPU is refused with 200 and success false, and queued."""
        contract = self.contract(instance_id)
        machine = self.machine_of(contract)
        if state == "stopped":
            await self.stop(contract)
            return
        if self.faults.take("queued_start") or machine.rented_by not in (None, contract.id):
            contract.intended_status = "running"
            contract.actual_status = "scheduling"
            raise ServiceError(200, "resources_unavailable", QUEUED)
        if contract.is_stopped():
            machine.rented_by = contract.id
            self._boot_again(contract)

    async def stop(self, contract: Contract, *, by_market: bool = False) -> None:
        """Stop a contract: its GPU is let go, its disk is still billed."""
        async with self._busy:
            await self._halt(contract)
        contract.cur_state = contract.next_state = "stopped"
        contract.intended_status = "running" if by_market and contract.is_bid else "stopped"
        contract.actual_status = "stopped" if not by_market else "exited" if not contract.is_bid else "stopped"
        contract.status_msg = "stopped"
        machine = self.machine_of(contract)
        if machine.rented_by == contract.id:
            machine.rented_by = None

    async def reboot(self, instance_id: int) -> None:
        """Start the container anew (reboot and recycle)."""
        contract = self.contract(instance_id)
        async with self._busy:
            await self._halt(contract)
        self._boot_again(contract)

    async def kill(self, instance_id: int) -> None:
        """Kill a container's process, as a crash would."""
        contract = self.contract(instance_id)
        async with self._busy:
            if contract.process is not None:
                contract.process.kill()
            await self.containers.stop(contract.id)
        self._exited(contract, -9)

    async def move(self, machine: Machine, *, ip: bool) -> None:
        """Give a machine another address, or its containers other ports, as a host's router may."""
        if ip:
            head, _, last = machine.ip.rpartition(".")
            net, _, octet = head.rpartition(".")
            machine.ip = f"{net}.{int(octet) + 100}.{last}"
        async with self._busy:
            for contract in self.live():
                if contract.machine_id == machine.machine_id and contract.started:
                    await self._halt(contract)
                    await self._start(contract, machine)

    async def black_hole(self, machine: Machine, *, on: bool) -> None:
        """Let nothing that is sent to a machine's containers be answered, while all is well with them."""
        machine.unreachable = on
        for contract in self.live():
            if contract.machine_id == machine.machine_id:
                self.containers.silence(contract.id, on=on)
                if contract.process is not None:
                    contract.process.freeze(on=on)

    def _boot_again(self, contract: Contract) -> None:
        contract.intended_status = contract.cur_state = contract.next_state = "running"
        contract.actual_status = None
        contract.status_msg = ""
        contract.booted_at = self.now()
        contract.pull_s = 0.0
        contract.started = False
        contract.process = None

    async def _halt(self, contract: Contract) -> None:
        if contract.process is not None:
            await asyncio.get_running_loop().run_in_executor(None, contract.process.kill)
        await self.containers.stop(contract.id)
        contract.halt(self.now())
        contract.process = None
        contract.started = False

    # ---- time ----------------------------------------------------------------------------------------------------

    async def advance(self) -> bool:
        """Move every contract along to `now`; True when something changed that a restart must know."""
        changed = False
        async with self._busy:
            for contract in list(self.contracts.values()):
                if contract.destroyed_at is None:
                    before = (contract.actual_status, contract.started, contract.cur_state)
                    await self._advance(contract)
                    changed |= before != (contract.actual_status, contract.started, contract.cur_state)
        for contract in self.live():
            ended = contract.end_date <= self.now()
            if (ended or self.credit_left() <= 0) and not contract.is_stopped():
                await self.stop(contract, by_market=False)
                changed = True
        return changed

    async def _advance(self, contract: Contract) -> None:
        if contract.is_stopped() or contract.actual_status in ("exited", "scheduling"):
            return
        machine = self.machine_of(contract)
        if not machine.alive or contract.boot_fault == "offline_at_boot":
            contract.actual_status = "offline"
            return
        if contract.started:
            code = contract.process.poll() if contract.process is not None else None
            if code is not None:
                self._exited(contract, code)
            return
        phase = contract.phase(self.now())
        if phase == "created":
            contract.actual_status = None if self.now() == contract.booted_at else "created"
            return
        if self._boot_trouble(contract, machine):
            return
        contract.actual_status = "loading"
        if phase == "pulling":
            contract.status_msg = contract.pull_message(self.now())
        elif phase == "starting":
            contract.status_msg = "Creating container"
        else:
            await self._start(contract, machine)

    def _boot_trouble(self, contract: Contract, machine: Machine) -> bool:
        fault = contract.boot_fault
        if fault == "stuck_loading" or machine.stalled:
            contract.actual_status, contract.status_msg = "loading", "4f4fb700ef54: Pulling fs layer"
            return True
        if fault == "pull_error":
            contract.actual_status = "loading"
            contract.status_msg = (
                contract.fault_params.get("msg") or f"Error: manifest for {contract.image} not found: manifest unknown"
            )
            return True
        if fault == "oci_error":
            contract.actual_status, contract.cur_state = "created", "stopped"
            contract.status_msg = "Error: OCI runtime create failed: unresolvable CDI devices nvidia.com/gpu=8: unknown"
            return True
        return False

    async def _start(self, contract: Contract, machine: Machine) -> None:
        fault = contract.boot_fault
        inner = [
            int(key.split()[1].split(":")[1].split("/")[0])
            for key in contract.body.get("env") or {}
            if key.startswith("-p ")
        ]
        contract.ports = {port: free_port(machine.ip) for port in inner}
        contract.started = True
        if fault in ("exited_at_boot", "app_error"):
            log = contract.fault_params.get("log") or "RuntimeError: the engine core failed to start"
            self.containers.append_log(contract.id, log)
            self._exited(contract, 1)
            return
        try:
            if fault in ("port_unreachable", "never_serves"):
                contract.process = None
            else:
                contract.process = await self.containers.start(contract.id, contract.body, machine.ip, contract.ports)
        except NotExecutable as error:
            contract.actual_status, contract.cur_state = "created", "stopped"
            contract.status_msg = f'OCI runtime create failed: exec: "{error}": executable file not found in $PATH'
            return
        contract.actual_status = "running"
        contract.status_msg = f"success, running {contract.image}\n"
        contract.running_since = self.now()

    def _exited(self, contract: Contract, code: int) -> None:
        contract.halt(self.now())
        contract.started = True
        contract.actual_status = "exited"
        contract.status_msg = f"exited ({code})"
