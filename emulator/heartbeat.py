"""The heartbeat: advances boots, market events and costs to the current time. Called by `server` and `control`."""

from __future__ import annotations

from emulator import boot, events, server_faults
from emulator.world import World


async def advance(world: World) -> bool:
    """Advance all contracts to the current time. Return whether the state to save changed.

    An error in one contract does not affect the others; raises all errors as an ExceptionGroup at the end.
    """
    changed, failures = False, []
    for contract in world.live_contracts():
        before = (contract.actual_status, contract.started, contract.cur_state)
        try:
            async with world.lock:
                if contract.destroyed_at is None:
                    await boot.advance(contract, world.find_machine(contract), world)
                    if contract.running_since is not None and contract.boot_fault not in boot.SERVES_NOTHING:
                        await server_faults.bind(contract, world)
            await events.apply_market_events(contract, world)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
        changed |= before != (contract.actual_status, contract.started, contract.cur_state)
    if world.remaining_credit() <= 0:
        for contract in world.live_contracts():
            if not contract.is_stopped():
                await world.stop(contract)
                changed = True
    if failures:
        raise ExceptionGroup("contracts that failed to advance", failures)
    return changed
