"""Market events of a contract: end, outbid, price increase, start of a queued contract.

Called by `heartbeat` for each contract.
"""

from __future__ import annotations

from typing import Any

from emulator.contract import Contract
from emulator.faults import MARKET
from emulator.world import World


async def apply_market_events(contract: Contract, world: World) -> None:
    """Apply the event that is due, if any."""
    machine, now = world.find_machine(contract), world.now()
    if contract.destroyed_at is not None:
        return
    is_queued = contract.actual_status == "scheduling" or (contract.outbid and contract.intended_status == "running")
    affordable = not contract.is_bid or contract.price_usd >= machine.min_bid_usd
    if contract.is_stopped():
        can_start = is_queued and affordable and machine.usable() and world.remaining_credit() > 0
        if can_start and not world.faults.take("queued_start", machine_id=machine.machine_id):
            world.start(contract)
        return
    if contract.end_date <= now:
        await world.stop(contract)
        return
    if not affordable:
        await world.outbid(contract)
        return
    rule = world.faults.take(
        *MARKET,
        ready=lambda rule: running_s(contract, now) >= float(rule.params.get("after_s", 0)),
        **fault_context(contract),
    )
    if rule is None:
        return
    if rule.kind == "outbid":
        await world.outbid(contract, rule.params.get("intended"))
    elif rule.kind == "end_contract":
        contract.end_date = world.now() + float(rule.params.get("seconds", 0))
    else:
        world.raise_price(contract, float(rule.params.get("factor", 1.5)), bool(rule.params.get("at_once", False)))


def fault_context(contract: Contract) -> dict[str, Any]:
    """Return the values to compare with the match of a fault."""
    return {"id": contract.id, "machine_id": contract.machine_id, "ask_id": contract.ask_id, "label": contract.label}


def running_s(contract: Contract, now: float) -> float:
    """Return the seconds since a contract began to run; -1 if it is not running."""
    return now - contract.running_since if contract.running_since is not None else -1.0
