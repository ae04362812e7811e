"""Market events of a contract: it ends, is outbid, has its price raised, or gets the GPU that it waits for.

Called by `heartbeat` for every contract.
"""

from __future__ import annotations

from emulator.contract import Contract
from emulator.faults import MARKET, Rule
from emulator.world import World


async def apply_market_events(contract: Contract, world: World) -> None:
    """Apply the one event that is due, if any."""
    machine, now = world.machine_of(contract), world.now()
    if contract.destroyed_at is not None:
        return
    waits = contract.actual_status == "scheduling" or (contract.outbid and contract.intended_status == "running")
    affordable = not contract.is_bid or contract.price_usd >= machine.min_bid_usd
    if contract.is_stopped():
        if waits and affordable and machine.usable() and world.credit_left() > 0:
            held = world.faults.take("queued_start", machine_id=machine.machine_id)
            if not held:
                world.start_again(contract)
        return
    if contract.end_date <= now:
        await world.stop(contract)
        return
    if not affordable:
        await world.outbid(contract)
        return
    rule = world.faults.take(
        *MARKET,
        ready=lambda rule: ran_s(contract, now) >= float(rule.params.get("after_s", 0)),
        id=contract.id,
        machine_id=contract.machine_id,
        ask_id=contract.ask_id,
        label=contract.label,
    )
    if rule is not None:
        await apply_fault(contract, rule, world)


async def apply_fault(contract: Contract, rule: Rule, world: World) -> None:
    """Apply a fault of the market: outbid, end_contract, or a price increase."""
    if rule.kind == "outbid":
        await world.outbid(contract, rule.params.get("intended"))
    elif rule.kind == "end_contract":
        contract.end_date = world.now() + float(rule.params.get("seconds", 0))
    else:
        world.raise_price(contract, float(rule.params.get("factor", 1.5)), bool(rule.params.get("at_once", False)))


def ran_s(contract: Contract, now: float) -> float:
    """Return for how many seconds a contract has been running; -1 if it is not running."""
    return now - contract.running_since if contract.running_since is not None else -1.0
