"""Control of a host: new address or ports, unreachable, power off and on. Called by `control`."""

from __future__ import annotations

from emulator import boot, server_faults
from emulator.market import Machine
from emulator.world import World


async def move(world: World, machine: Machine, *, ip: bool) -> None:
    """Give a machine a new address, or its containers new ports."""
    if ip:
        head, _, last = machine.ip.rpartition(".")
        net, _, octet = head.rpartition(".")
        machine.ip = f"{net}.{int(octet) % 200 + 100}.{last}"
    async with world.lock:
        for contract in world.contracts_on(machine):
            if contract.started and contract.actual_status == "running":
                await world.halt(contract)
                contract.ports = {}
                await boot.start(contract, machine, world)


async def set_unreachable(world: World, machine: Machine, *, on: bool) -> None:
    """Make the running containers of a machine unreachable, or reachable again."""
    machine.unreachable = on
    for contract in world.contracts_on(machine):
        await server_faults.apply(contract, world)


async def set_power(world: World, machine: Machine, *, on: bool) -> None:
    """Switch a host and its containers off, or on again: its containers then boot."""
    machine.alive = on
    for contract in world.contracts_on(machine):
        if not on:
            async with world.lock:
                await world.halt(contract)
            contract.go_offline(world.now())
            continue
        contract.go_online(world.now())
        if not contract.is_stopped():
            contract.boot(world.now(), transient=None, pull_s=0.0)


async def revive(world: World, machine: Machine) -> None:
    """Undo all faults of a host. Free its GPU if another customer holds it."""
    machine.stalled = False
    if machine.rented_by not in world.contracts:
        machine.rented_by = None
    await set_unreachable(world, machine, on=False)
    if not machine.alive:
        await set_power(world, machine, on=True)
