"""Moves every contract along to now: boots, market events, an empty account. Called by `server` and `control`."""

from __future__ import annotations

from emulator import boot, events, server_faults
from emulator.world import World


async def advance(world: World) -> bool:
    """Move every contract along to now; True when something changed that a restart must know.

    One that cannot be moved holds up no other: raises an ExceptionGroup at the end.
    """
    changed, failures = False, []
    for contract in world.live():
        before = (contract.actual_status, contract.started, contract.cur_state)
        try:
            async with world.busy:
                if contract.destroyed_at is None:
                    await boot.advance(contract, world.machine_of(contract), world)
                    if contract.running_since is not None and contract.boot_fault not in boot.SERVES_NOTHING:
                        await server_faults.bind(contract, world)
            await events.apply_market_events(contract, world)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
        changed |= before != (contract.actual_status, contract.started, contract.cur_state)
    if world.credit_left() <= 0:
        for contract in world.live():
            if not contract.is_stopped():
                await world.stop(contract)
                changed = True
    if failures:
        raise ExceptionGroup("contracts that could not be moved along", failures)
    return changed
