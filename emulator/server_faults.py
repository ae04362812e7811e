"""Faults of the server in a container: which rule is on for which contract, and what is done to the container for it.

Called when a container starts (`boot`), at every heartbeat (`events`), and when rules come and go (`control`).
"""

from __future__ import annotations

from typing import Any

from emulator.contract import Contract
from emulator.events import ran_s
from emulator.faults import SERVER, Rule
from emulator.runtime import Runtime, can_bind
from emulator.stub_faults import ServerFault
from emulator.world import World

OF_PROCESSES = ("frozen", "disk_full")


def check(kind: str, params: dict[str, Any], runtime: Runtime) -> None:
    """Raise ValueError for a server fault that this runtime cannot have, or whose parameters it does not know."""
    if kind not in SERVER:
        return
    if runtime == "vllm" and kind not in OF_PROCESSES:
        raise ValueError(f"{kind}: only the stub does that; of real vLLM there is {', '.join(OF_PROCESSES)}")
    if runtime == "none" and kind == "disk_full":
        raise ValueError("disk_full: this runtime has no processes whose writes could fail; use --runtime stub")
    if unknown := params.keys() - vars(ServerFault()).keys():
        raise ValueError(f"{kind} has no parameter {', '.join(sorted(unknown))}")


async def bind(contract: Contract, world: World, *, starting: bool = False) -> None:
    """Bind the first rule that applies to a contract that has none, and let its container obey.

    A rule with a chance is drawn once, as the container starts.
    """
    bound = not contract.server_fault and bool(rule := _taken(contract, world, starting))
    if bound:
        contract.server_fault = rule
    if starting or bound or _late(contract, world):
        await obey(contract, world)


async def obey(contract: Contract, world: World) -> None:
    """Do to a container what its host and its fault say."""
    machine, process = world.machine_of(contract), contract.process
    fault = _fault(contract, world)
    await world.containers.set_fault(contract.id, fault, machine.ip, contract.ports)
    if process is None:
        return
    freeze, fill = fault.get("kind") == "frozen", fault.get("kind") == "disk_full"
    if process.frozen != freeze and (not freeze or _listens(contract, machine.ip)):
        process.freeze(on=freeze)
    if process.full != fill:
        process.fill_disk(on=fill)


def _fault(contract: Contract, world: World) -> dict[str, Any]:
    silent = "frozen" if world.containers.settings.runtime == "vllm" else "firewall"  # real vLLM listens by itself
    return {"kind": silent} if world.machine_of(contract).unreachable else contract.server_fault


def _late(contract: Contract, world: World) -> bool:
    """Whether a process has yet to be frozen: one that did not listen would leave a port that refuses."""
    process = contract.process
    return process is not None and not process.frozen and _fault(contract, world).get("kind") == "frozen"


def _listens(contract: Contract, ip: str) -> bool:
    return not contract.ports or any(not can_bind(ip, port) for port in contract.ports.values())


def _taken(contract: Contract, world: World, starting: bool) -> dict[str, Any]:
    now = world.now()

    def ready(rule: Rule) -> bool:
        after_s = float(rule.params.get("after_s", 0))
        return not after_s if starting else "chance" not in rule.params and ran_s(contract, now) >= after_s

    rule = world.faults.take(
        *SERVER,
        ready=ready,
        id=contract.id,
        machine_id=contract.machine_id,
        ask_id=contract.ask_id,
        label=contract.label,
    )
    return {"kind": rule.kind, "rule": rule.id, **rule.params} if rule else {}


async def lift(world: World, rule_id: int | None = None) -> None:
    """Let servers be well again that a rule, or any, is bound to."""
    for contract in world.live():
        if contract.server_fault and rule_id in (None, contract.server_fault["rule"]):
            contract.server_fault = {}
            await obey(contract, world)
