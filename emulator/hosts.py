"""Control of a host: another address or port, no answers, power off and on. Called by `control`."""

from __future__ import annotations

from emulator import boot, server_faults
from emulator.market import Machine
from emulator.world import World


async def move(world: World, machine: Machine, *, ip: bool) -> None:
    """Give a machine another address, or its containers other ports, as a host's router may."""
    if ip:
        head, _, last = machine.ip.rpartition(".")
        net, _, octet = head.rpartition(".")
        machine.ip = f"{net}.{int(octet) % 200 + 100}.{last}"
    async with world.busy:
        for contract in world.contracts_on(machine):
            if contract.started and contract.actual_status == "running":
                await world.halt(contract)
                contract.ports = {}
                await boot.start(contract, machine, world)


async def set_unreachable(world: World, machine: Machine, *, on: bool) -> None:
    """Let nothing that is sent to a machine's containers be answered, while all is well with them."""
    machine.unreachable = on
    for contract in world.contracts_on(machine):
        await server_faults.obey(contract, world)


async def set_power(world: World, machine: Machine, *, on: bool) -> None:
    """Switch a host off, its containers with it, or on again: then they start anew."""
    machine.alive = on
    for contract in world.contracts_on(machine):
        if not on:
            async with world.busy:
                await world.halt(contract)
            contract.offline(world.now())
            continue
        contract.online(world.now())
        if not contract.is_stopped():
            contract.boot(world.now(), transient=None, pull_s=0.0)


async def revive(world: World, machine: Machine) -> None:
    """Undo all that was done to a host, and free its GPU where the market gave it away."""
    machine.stalled = False
    if machine.rented_by not in world.contracts:
        machine.rented_by = None
    await set_unreachable(world, machine, on=False)
    if not machine.alive:
        await set_power(world, machine, on=True)
