"""The state and the operations of the market: rent, start, stop, destroy, billing. No HTTP; the clock is a parameter.

Called by `*_routes` and `control`. `heartbeat` advances contracts (`boot`, `events`), `hosts` changes machines.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from emulator.account import Account
from emulator.clock import IMAGE_GB
from emulator.contract import Contract
from emulator.errors import refusal
from emulator.faults import BOOT, Faults
from emulator.filters import select
from emulator.market import Machine
from emulator.rental import apply_template, disk_gb, parse_bid, parse_price, validate
from emulator.runtime import Containers

CREDIT_USD = 25.0
FIRST_CONTRACT = 31_000_001
DEFAULT_STORAGE_GB = 8.0
SOMEBODY_ELSE = -1  # rented_by: another customer


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
        self.faults = Faults(seed)
        self.credit_usd = 0.0
        self.account = Account()
        self.next_id = FIRST_CONTRACT + secrets.randbelow(900_000) * 10  # markets do not share ids
        self.now = now
        self.pay(CREDIT_USD)
        self.dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._timing = timing
        self._initial_machines = {key: replace(machine) for key, machine in machines.items()}
        self.lock = asyncio.Lock()  # held during changes of processes

    # ---- reads ---------------------------------------------------------------------------------------------------

    def search(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the offers for a query of the API. Raises ServiceError."""
        storage = float(query.get("allocated_storage") or DEFAULT_STORAGE_GB)
        bid = query.get("type") in ("bid", "interruptible")
        now = self.now()
        offers = []
        for machine in self.machines.values():
            if machine.usable():
                machine.relist(now)
                offers.append(machine.offer(now=now, storage_gb=storage, bid=bid))
        return select(offers, query)

    def live_contracts(self) -> list[Contract]:
        return [contract for contract in self.contracts.values() if contract.destroyed_at is None]

    def visible_contracts(self) -> list[Contract]:
        """Return the contracts of the list call: the fault `lag` hides new ones."""
        return [contract for contract in self.live_contracts() if self._is_visible(contract)]

    def get_contract(self, instance_id: int, missing: str = "no_such_instance") -> Contract:
        """Return a live contract. Raises the refusal `missing` for an unknown id."""
        contract = self.contracts.get(instance_id)
        if contract is None or contract.destroyed_at is not None:
            raise refusal(missing, id=instance_id)
        return contract

    def find_visible(self, instance_id: int) -> Contract | None:
        """Return a live contract for a read, None if it is unknown or still hidden by the fault `lag`."""
        contract = self.contracts.get(instance_id)
        if contract is None or contract.destroyed_at is not None or not self._is_visible(contract):
            return None
        return contract

    def _is_visible(self, contract: Contract) -> bool:
        if contract.hidden_reads > 0:
            contract.hidden_reads -= 1
            return False
        return contract.visible_at <= self.now()

    def find_machine(self, contract: Contract) -> Machine:
        return self.machines[contract.machine_id]

    def remaining_credit(self) -> float:
        """Return the credit after the costs and deposits of all contracts, in dollars."""
        now = self.now()
        costs = (contract.cost_usd(now) + contract.deposit_usd(now) for contract in self.contracts.values())
        return self.credit_usd - sum(costs)

    def pay(self, usd: float) -> None:
        self.credit_usd += usd
        self.account.add_payment(usd, self.now())

    # ---- rent ----------------------------------------------------------------------------------------------------

    def rent(self, ask_id: int, body: dict[str, Any]) -> Contract:
        """Create a contract, as `PUT /asks/{id}/` does. Raises ServiceError."""
        machine = self.asks.get(ask_id)
        if machine is None:
            raise refusal("no_such_ask", ask_id=ask_id)
        if not machine.usable():
            raise refusal("ask_is_taken", ask_id=ask_id)
        if self.faults.take("offer_taken", ask_id=ask_id, machine_id=machine.machine_id):
            machine.rented_by = SOMEBODY_ELSE
            raise refusal("ask_is_taken", ask_id=ask_id)
        template_id, hash_id = body.get("template_id"), body.get("template_hash_id")
        if template_id is not None or hash_id is not None:
            body = apply_template(body, self.account.template(template_id, hash_id))
        validate(body, machine.facts["disk_space"])
        if self.faults.take("no_credit") or self.remaining_credit() <= 0:
            raise refusal("insufficient_credit")
        machine.relist(self.now())
        contract = self._create_contract(machine, body)
        self.contracts[contract.id] = contract
        if contract.is_bid and contract.price_usd < machine.min_bid_usd:
            contract.create_stopped("created")
            raise refusal(
                "bid_too_low", {"new_contract": contract.id}, price=contract.price_usd, floor=machine.min_bid_usd
            )
        if body.get("target_state") == "stopped":
            contract.create_stopped("stopped")
            return contract
        machine.rented_by = contract.id
        return contract

    def _create_contract(self, machine: Machine, body: dict[str, Any]) -> Contract:
        contract_id, self.next_id = self.next_id, self.next_id + self.dice.randint(1, 9)
        created, pull, start = self._timing(machine)
        context: dict[str, Any] = {"machine_id": machine.machine_id, "ask_id": machine.ask_id}
        context["label"] = str(body.get("label") or "")
        rule = self.faults.take(*BOOT, **context)
        lag = self.faults.take("lag", **context)
        price = body.get("price")
        now = self.now()
        return Contract(
            id=contract_id,
            **context,
            body=body,
            rented_at=now,
            booted_at=now,
            created_s=created,
            pull_s=pull,
            start_s=start,
            dph_base_usd=machine.dph_base_usd,
            dph_disk_usd=machine.disk_dph(disk_gb(body)),
            pull_cost_usd=IMAGE_GB * machine.facts["inet_down_cost"],
            end_date=machine.end_date,
            api_key=secrets.token_hex(32),
            is_bid=price is not None,
            price_usd=0.0 if price is None else parse_price(price),
            ssh_keys=list(self.account.ssh_keys),
            visible_at=now + float(lag.params.get("seconds", 0 if "reads" in lag.params else 2)) if lag else now,
            hidden_reads=int(lag.params.get("reads", 0)) if lag else 0,
            boot_fault=rule.kind if rule else "",
            fault_params=rule.params if rule else {},
        )

    # ---- changes -------------------------------------------------------------------------------------------------

    async def destroy(self, instance_id: int) -> None:
        """Destroy a contract; return after its process has ended. Raises ServiceError."""
        contract = self.get_contract(instance_id)
        async with self.lock:
            if contract.destroyed_at is not None:  # by another call, before the lock was free
                raise refusal("no_such_instance", id=instance_id)
            await self.halt(contract)
            contract.destroyed_at = self.now()
            contract.actual_status = None
            self.containers.wipe(contract.id)
            self._release_machine(contract)

    async def set_state(self, instance_id: int, state: str) -> None:
        """Start or stop an instance. A start without a free GPU is queued and refused (HTTP 200, success false)."""
        contract = self.get_contract(instance_id)
        if state == "stopped":
            await self.stop(contract)
            return
        if not contract.is_stopped():
            contract.intended_status = "running"
            return
        if self.remaining_credit() <= 0:
            raise refusal("insufficient_credit")
        machine = self.find_machine(contract)
        too_low = contract.is_bid and contract.price_usd < machine.min_bid_usd
        if self.faults.take("queued_start", machine_id=machine.machine_id) or not machine.usable() or too_low:
            contract.intended_status = contract.next_state = "running"
            contract.set_status("scheduling")
            raise refusal("queued")
        self.start(contract)

    def start(self, contract: Contract) -> None:
        """Rent the machine of a stopped contract again and boot it."""
        machine = self.find_machine(contract)
        machine.rented_by = contract.id
        contract.ports = {}
        contract.boot(self.now(), transient=None, pull_s=0.0 if contract.pulls else self._timing(machine)[1])

    async def stop(self, contract: Contract, *, intended: str = "stopped") -> None:
        """Stop a contract: its GPU becomes free, its disk is still billed."""
        async with self.lock:
            await self.halt(contract)
        contract.cur_state = contract.next_state = "stopped"
        contract.intended_status = intended
        contract.set_status("stopped")
        contract.status_msg = "stopped"
        self._release_machine(contract)

    async def outbid(self, contract: Contract, intended: str | None = None) -> None:
        """Stop a contract because of a higher bid. An on-demand contract becomes interruptible.

        `intended` is the `intended_status` afterwards (default running): reports about the real API differ.
        """
        if not contract.is_bid:
            contract.reprice(self.now(), bid_usd=contract.dph_base_usd)
        await self.stop(contract, intended=intended or "running")
        contract.is_bid = contract.outbid = True
        self.find_machine(contract).rented_by = SOMEBODY_ELSE

    async def bid(self, instance_id: int, price: Any) -> None:
        """Change a bid (None: to the minimum). `events` then stops or starts the contract. Raises ServiceError."""
        contract = self.get_contract(instance_id)
        machine = self.find_machine(contract)
        bid = machine.min_bid_usd if price is None else parse_bid(price, machine.num_gpus)
        contract.reprice(self.now(), bid_usd=bid)

    def prepay(self, contract: Contract, usd: float) -> None:
        """Deposit credit for a contract. Its costs use the deposit first; a destroy refunds the rest."""
        if not 0 < usd <= self.remaining_credit():
            raise refusal("no_credit_to_prepay")
        contract.prepay(usd, self.now())

    async def reboot(self, instance_id: int, *, recycle: bool = False) -> None:
        """Restart the container; a recycle also pulls the image again and deletes the container's files."""
        contract = self.get_contract(instance_id)
        if contract.is_stopped():
            raise refusal("not_running", id=instance_id)
        async with self.lock:
            await self.halt(contract)
            if recycle:
                self.containers.wipe(contract.id)
        pull = self._timing(self.find_machine(contract))[1] if recycle else 0.0
        contract.boot(self.now(), transient="recycling" if recycle else "rebooting", pull_s=pull)

    async def kill(self, instance_id: int) -> None:
        """Kill a container's process: the container has exited."""
        contract = self.get_contract(instance_id)
        async with self.lock:
            await self.halt(contract)
            contract.set_exited(-9, self.now())

    async def wedge(self, instance_id: int) -> None:
        """Kill a container's server; the container stays running."""
        contract = self.get_contract(instance_id)
        async with self.lock:
            running_since = contract.running_since
            await self.halt(contract)
            contract.started, contract.running_since = True, running_since

    def _release_machine(self, contract: Contract) -> None:
        machine = self.find_machine(contract)
        if machine.rented_by == contract.id:
            machine.rented_by = None

    async def halt(self, contract: Contract) -> None:
        """Kill a container's process and stop counting GPU time. The caller holds `lock`."""
        if contract.process is not None:
            await asyncio.get_running_loop().run_in_executor(None, contract.process.kill)
        await self.containers.stop(contract.id)
        contract.halt(self.now())
        contract.process = None
        contract.started = False

    async def reset(self) -> None:
        """Destroy and delete all contracts; restore the initial machines, credit and account."""
        self.faults.clear()
        self.faults.fired.clear()
        for contract in self.live_contracts():
            await self.destroy(contract.id)
        self.contracts.clear()
        self.credit_usd, self.account = 0.0, Account()
        self.pay(CREDIT_USD)
        for key, machine in self.machines.items():
            vars(machine).update(vars(self._initial_machines[key]))

    def contracts_on(self, machine: Machine) -> list[Contract]:
        return [contract for contract in self.live_contracts() if contract.machine_id == machine.machine_id]

    def raise_price(self, contract: Contract, factor: float, at_once: bool) -> None:
        """Announce a higher price for a contract, or charge it at once."""
        new_dph_usd = contract.dph_base_usd * factor
        if at_once:
            contract.reprice(self.now(), base_usd=new_dph_usd)
        else:
            contract.announced_dph_usd = new_dph_usd
