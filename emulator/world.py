"""The rules of the market: renting, stopping, destroying, billing. Knows no HTTP; time comes from the clock given.

Called by `routes` and `control`. `heartbeat` moves contracts along (`boot`, `events`), `hosts` changes machines.
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
from emulator.rental import disk_gb, valid_bid, valid_price, validate, with_template
from emulator.runtime import Containers

CREDIT_USD = 25.0
FIRST_CONTRACT = 31_000_001
DEFAULT_STORAGE_GB = 8.0
SOMEBODY_ELSE = -1


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
        self.next_id = FIRST_CONTRACT + secrets.randbelow(900_000) * 10  # no two markets share ids
        self.now = now
        self.pay(CREDIT_USD)
        self.dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._timing = timing
        self._first_day = {key: replace(machine) for key, machine in machines.items()}
        self.busy = asyncio.Lock()

    # ---- reading -------------------------------------------------------------------------------------------------

    def search(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return offers for a query as the API takes it."""
        storage = float(query.get("allocated_storage") or DEFAULT_STORAGE_GB)
        bid = query.get("type") in ("bid", "interruptible")
        now = self.now()
        offers = []
        for machine in self.machines.values():
            if machine.usable():
                machine.relist(now)
                offers.append(machine.offer(now=now, storage_gb=storage, bid=bid))
        return select(offers, query)

    def live(self) -> list[Contract]:
        return [one for one in self.contracts.values() if one.destroyed_at is None]

    def seen(self) -> list[Contract]:
        """Return the contracts that a list shows: a new one may not be there yet."""
        return [one for one in self.live() if self._visible(one)]

    def contract(self, instance_id: int, missing: str = "no_such_instance") -> Contract:
        """Return one contract, to be changed. Raises the refusal of the name given where there is none."""
        found = self.contracts.get(instance_id)
        if found is None or found.destroyed_at is not None:
            raise refusal(missing, id=instance_id)
        return found

    def shown(self, instance_id: int) -> Contract | None:
        """Return one contract as a read sees it: not there when gone, or not there yet."""
        found = self.contracts.get(instance_id)
        return found if found is not None and found.destroyed_at is None and self._visible(found) else None

    def _visible(self, contract: Contract) -> bool:
        if contract.hidden_reads > 0:
            contract.hidden_reads -= 1
            return False
        return contract.visible_at <= self.now()

    def machine_of(self, contract: Contract) -> Machine:
        return self.machines[contract.machine_id]

    def credit_left(self) -> float:
        """Return the account's credit after what all contracts have cost, and what is deposited for some."""
        now = self.now()
        return self.credit_usd - sum(one.cost_usd(now) + one.deposit_usd(now) for one in self.contracts.values())

    def pay(self, usd: float) -> None:
        self.credit_usd += usd
        self.account.paid(usd, self.now())

    # ---- renting -------------------------------------------------------------------------------------------------

    def rent(self, ask_id: int, body: dict[str, Any]) -> Contract:
        """Make a contract, as `PUT /asks/{id}/` does. Raises ServiceError."""
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
            body = with_template(body, self.account.template(template_id, hash_id))
        validate(body, machine.facts["disk_space"])
        if self.faults.take("no_credit") or self.credit_left() <= 0:
            raise refusal("insufficient_credit")
        machine.relist(self.now())
        contract = self._contract(machine, body)
        self.contracts[contract.id] = contract
        if contract.is_bid and contract.price_usd < machine.min_bid_usd:
            contract.never_booted("created")
            found = {"new_contract": contract.id}
            raise refusal("bid_too_low", found, price=contract.price_usd, floor=machine.min_bid_usd)
        if body.get("target_state") == "stopped":
            contract.never_booted("stopped")
            return contract
        machine.rented_by = contract.id
        return contract

    def _contract(self, machine: Machine, body: dict[str, Any]) -> Contract:
        contract_id, self.next_id = self.next_id, self.next_id + self.dice.randint(1, 9)
        created, pull, start = self._timing(machine)
        label = str(body.get("label") or "")
        place: dict[str, Any] = {"machine_id": machine.machine_id, "ask_id": machine.ask_id, "label": label}
        rule = self.faults.take(*BOOT, **place)
        lag = self.faults.take("lag", **place)
        price = body.get("price")
        now = self.now()
        return Contract(
            id=contract_id,
            machine_id=machine.machine_id,
            ask_id=machine.ask_id,
            body=body,
            label=label,
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
            price_usd=0.0 if price is None else valid_price(price),
            ssh_keys=list(self.account.ssh_keys),
            visible_at=now + float(lag.params.get("seconds", 0 if "reads" in lag.params else 2)) if lag else now,
            hidden_reads=int(lag.params.get("reads", 0)) if lag else 0,
            boot_fault=rule.kind if rule else "",
            fault_params=rule.params if rule else {},
        )

    # ---- changing ------------------------------------------------------------------------------------------------

    async def destroy(self, instance_id: int) -> None:
        """End a contract; returns once its process is gone."""
        contract = self.contract(instance_id)
        async with self.busy:
            if contract.destroyed_at is not None:  # someone else was faster
                raise refusal("no_such_instance", id=instance_id)
            await self.halt(contract)
            contract.destroyed_at = self.now()
            contract.actual_status = None
            self.containers.wipe(contract.id)
            self._let_go(contract)

    async def set_state(self, instance_id: int, state: str) -> None:
        """Start or stop an instance; a start without a free GPU is refused with 200 and success false, and queued."""
        contract = self.contract(instance_id)
        if state == "stopped":
            await self.stop(contract)
            return
        if not contract.is_stopped():
            contract.intended_status = "running"
            return
        if self.credit_left() <= 0:
            raise refusal("insufficient_credit")
        machine = self.machine_of(contract)
        too_low = contract.is_bid and contract.price_usd < machine.min_bid_usd
        if self.faults.take("queued_start", machine_id=machine.machine_id) or not machine.usable() or too_low:
            contract.intended_status = contract.next_state = "running"
            contract.set_status("scheduling")
            raise refusal("queued")
        self.start_again(contract)

    def start_again(self, contract: Contract) -> None:
        """Give a stopped contract its machine back and boot it."""
        machine = self.machine_of(contract)
        machine.rented_by = contract.id
        contract.ports = {}
        contract.boot(self.now(), transient=None, pull_s=0.0 if contract.pulls else self._timing(machine)[1])

    async def stop(self, contract: Contract, *, intended: str = "stopped") -> None:
        """Stop a contract: its GPU is let go, its disk is still billed."""
        async with self.busy:
            await self.halt(contract)
        contract.cur_state = contract.next_state = "stopped"
        contract.intended_status = intended
        contract.set_status("stopped")
        contract.status_msg = "stopped"
        self._let_go(contract)

    async def outbid(self, contract: Contract, intended: str | None = None) -> None:
        """Give an interruptible contract's GPU to a higher bid; one that was none is treated as one from now on.

        Whether `intended_status` then stays running is disputed among those who have seen it: `intended` decides.
        """
        if not contract.is_bid:
            contract.reprice(self.now(), bid_usd=contract.dph_base_usd)
        await self.stop(contract, intended=intended or "running")
        contract.is_bid = contract.outbid = True
        self.machine_of(contract).rented_by = SOMEBODY_ELSE

    async def bid(self, instance_id: int, price: Any) -> None:
        """Change a bid, to the lowest that wins where no price is given.

        Below the floor the GPU is lost; at or above it, one that was lost comes back once free.
        """
        contract = self.contract(instance_id)
        machine = self.machine_of(contract)
        bid = machine.min_bid_usd if price is None else valid_bid(price, machine.num_gpus)
        contract.reprice(self.now(), bid_usd=bid)

    def prepay(self, contract: Contract, usd: float) -> None:
        """Deposit credit for a contract, which its bill then uses first; what is left comes back when it ends."""
        if not 0 < usd <= self.credit_left():
            raise refusal("no_credit_to_prepay")
        contract.prepay(usd, self.now())

    async def reboot(self, instance_id: int, *, recycle: bool = False) -> None:
        """Start the container anew; recycling pulls the image again and forgets the container's files."""
        contract = self.contract(instance_id)
        if contract.is_stopped():
            raise refusal("not_running", id=instance_id)
        async with self.busy:
            await self.halt(contract)
            if recycle:
                self.containers.wipe(contract.id)
        pull = self._timing(self.machine_of(contract))[1] if recycle else 0.0
        contract.boot(self.now(), transient="recycling" if recycle else "rebooting", pull_s=pull)

    async def kill(self, instance_id: int) -> None:
        """Kill a container's process, as a crash would."""
        contract = self.contract(instance_id)
        async with self.busy:
            await self.halt(contract)
            contract.exited(-9, self.now())

    async def wedge(self, instance_id: int) -> None:
        """Let a container's server die while the container goes on."""
        contract = self.contract(instance_id)
        async with self.busy:
            running_since = contract.running_since
            await self.halt(contract)
            contract.started, contract.running_since = True, running_since

    def _let_go(self, contract: Contract) -> None:
        machine = self.machine_of(contract)
        if machine.rented_by == contract.id:
            machine.rented_by = None

    async def halt(self, contract: Contract) -> None:
        """Kill a container's process and stop counting GPU time; `busy` is held."""
        if contract.process is not None:
            await asyncio.get_running_loop().run_in_executor(None, contract.process.kill)
        await self.containers.stop(contract.id)
        contract.halt(self.now())
        contract.process = None
        contract.started = False

    async def reset(self) -> None:
        """Destroy everything, forget it, and have the machines as on the first day."""
        self.faults.clear()
        self.faults.fired.clear()
        for contract in self.live():
            await self.destroy(contract.id)
        self.contracts.clear()
        self.credit_usd, self.account = 0.0, Account()
        self.pay(CREDIT_USD)
        for key, machine in self.machines.items():
            vars(machine).update(vars(self._first_day[key]))

    def contracts_on(self, machine: Machine) -> list[Contract]:
        return [one for one in self.live() if one.machine_id == machine.machine_id]

    def raise_price(self, contract: Contract, factor: float, at_once: bool) -> None:
        """Announce a higher price for a contract, or charge it at once."""
        dearer = contract.dph_base_usd * factor
        if at_once:
            contract.reprice(self.now(), base_usd=dearer)
        else:
            contract.announced_dph_usd = dearer
