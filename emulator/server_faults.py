"""Faults of the server in a container: binds rules to contracts and applies them to containers.

Called at the start of a container (`boot`), by `heartbeat`, by `hosts`, and when rules change (`control`).
"""

from __future__ import annotations

from typing import Any

from emulator.contract import Contract
from emulator.events import fault_context, running_s
from emulator.faults import SERVER, Rule
from emulator.runtime import Runtime, can_bind
from emulator.stub_faults import ServerFault
from emulator.world import World

PROCESS_FAULTS = ("frozen", "disk_full")


def check(kind: str, params: dict[str, Any], runtime: Runtime) -> None:
    """Raise ValueError for a server fault that this runtime does not support, or for unknown parameters."""
    if kind not in SERVER:
        return
    if runtime == "vllm" and kind not in PROCESS_FAULTS:
        raise ValueError(f"{kind}: --runtime vllm does not support it; vllm supports {', '.join(PROCESS_FAULTS)}")
    if runtime == "none" and kind == "disk_full":
        raise ValueError("disk_full: this runtime has no processes; use --runtime stub")
    if unknown := params.keys() - vars(ServerFault()).keys():
        raise ValueError(f"{kind} has no parameter {', '.join(sorted(unknown))}")


async def bind(contract: Contract, world: World, *, starting: bool = False) -> None:
    """Bind the first rule that applies to a contract without a fault, and apply the fault to its container.

    A rule with a chance is tried only once, at the start of the container.
    """
    is_new = not contract.server_fault and bool(fault := _take_fault(contract, world, starting))
    if is_new:
        contract.server_fault = fault
    if starting or is_new or _needs_freeze(contract, world):
        await apply(contract, world)


async def apply(contract: Contract, world: World) -> None:
    """Apply the fault of a contract, or of its unreachable host, to its container."""
    machine, process = world.find_machine(contract), contract.process
    fault = _active_fault(contract, world)
    await world.containers.set_fault(contract.id, fault, machine.ip, contract.ports)
    if process is None:
        return
    freeze, fill = fault.get("kind") == "frozen", fault.get("kind") == "disk_full"
    if process.frozen != freeze and (not freeze or _is_listening(contract, machine.ip)):
        process.freeze(on=freeze)
    if process.full != fill:
        process.fill_disk(on=fill)


def _active_fault(contract: Contract, world: World) -> dict[str, Any]:
    kind = "frozen" if world.containers.settings.runtime == "vllm" else "firewall"  # real vLLM has no firewall fault
    return {"kind": kind} if world.find_machine(contract).unreachable else contract.server_fault


def _needs_freeze(contract: Contract, world: World) -> bool:
    """Return whether a process is still to be frozen: `apply` waits until it listens."""
    process = contract.process
    return process is not None and not process.frozen and _active_fault(contract, world).get("kind") == "frozen"


def _is_listening(contract: Contract, ip: str) -> bool:
    return not contract.ports or any(not can_bind(ip, port) for port in contract.ports.values())


def _take_fault(contract: Contract, world: World, starting: bool) -> dict[str, Any]:
    now = world.now()

    def ready(rule: Rule) -> bool:
        after_s = float(rule.params.get("after_s", 0))
        return not after_s if starting else "chance" not in rule.params and running_s(contract, now) >= after_s

    rule = world.faults.take(*SERVER, ready=ready, **fault_context(contract))
    return {"kind": rule.kind, "rule": rule.id, **rule.params} if rule else {}


async def remove(world: World, rule_id: int | None = None) -> None:
    """Remove the server faults of a rule, or all, from contracts."""
    for contract in world.live_contracts():
        if contract.server_fault and rule_id in (None, contract.server_fault["rule"]):
            contract.server_fault = {}
            await apply(contract, world)
