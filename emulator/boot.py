"""The boot of a contract's container, step by step, with its faults and its exit. Called with the world's lock held."""

from __future__ import annotations

from emulator import server_faults
from emulator.contract import Contract
from emulator.faults import APP_ERRORS
from emulator.market import Machine
from emulator.process import NotExecutable
from emulator.rental import parse_ports
from emulator.runtime import can_bind, free_ports
from emulator.world import World

SERVES_NOTHING = ("port_unreachable", "never_serves", "download_stalls")
STALLED = "model.safetensors:  31%|###1      | 345M/1.11G [00:12<00:26, 28.9MB/s]"


async def advance(contract: Contract, machine: Machine, world: World) -> None:
    """Update the state of a contract to the current time."""
    now = world.now()
    if contract.is_stopped() or contract.actual_status in ("exited", "scheduling"):
        return
    if not machine.alive or contract.boot_fault == "offline_at_boot":
        contract.go_offline(now)
        return
    if contract.started:
        if contract.process is not None and (code := contract.process.poll()) is not None:
            contract.process.kill()  # the container's other processes
            contract.set_exited(code, now)
        return
    phase = contract.phase(now)
    if phase == "created" or contract.boot_fault == "stuck_created":
        contract.actual_status = contract.first_status(now)
        return
    if apply_boot_fault(contract, machine):
        return
    contract.actual_status = "loading"
    if phase == "pulling":
        contract.status_msg = contract.pull_message(now)
    elif phase == "starting":
        contract.status_msg = f"Status: Downloaded newer image for {contract.image}\n"
    else:
        await start(contract, machine, world)


def apply_boot_fault(contract: Contract, machine: Machine) -> bool:
    """Apply the boot fault of a contract. Return whether the fault blocks the boot."""
    fault = contract.boot_fault
    if fault == "oci_error":
        default = "unresolvable CDI devices nvidia.com/gpu=8: unknown"
        _fail_start(contract, machine, contract.fault_params.get("msg") or default)
        return True
    if fault == "pull_error":
        default = f"Error response from daemon: manifest for {contract.image} not found: manifest unknown"
        contract.actual_status, contract.status_msg = "loading", contract.fault_params.get("msg") or default
        return True
    if fault == "stuck_loading" or machine.stalled:
        contract.actual_status = "loading"
        contract.status_msg = contract.status_msg or "4f4fb700ef54: Pulling fs layer"
        return True
    return False


async def start(contract: Contract, machine: Machine, world: World) -> None:
    """Start the container: map its ports, run its command."""
    if any(not can_bind(machine.ip, port) for port in contract.ports.values()):
        contract.ports = {}
    if not contract.ports:
        contract.ports = free_ports(machine.ip, parse_ports(contract.body))
    contract.halt(world.now())
    contract.started = True
    fault = contract.boot_fault
    if fault in ("exited_at_boot", "app_error"):
        variant = APP_ERRORS.get(contract.fault_params.get("variant", "unknown_flag"), "")
        default = variant if fault == "app_error" else "RuntimeError: the engine core failed to start"
        world.containers.append_log(contract.id, contract.fault_params.get("log") or default)
        contract.set_exited(1, world.now())
        return
    try:
        contract.process = None
        if fault == "download_stalls":
            world.containers.append_log(contract.id, STALLED)
        if fault not in SERVES_NOTHING:
            await server_faults.bind(contract, world, starting=True)
            contract.process = await world.containers.start(contract.id, contract.body, machine.ip, contract.ports)
    except OSError:  # another emulator took one of the ports: the next step chooses other ports
        await world.containers.stop(contract.id)
        contract.ports, contract.started = {}, False
        return
    except NotExecutable as error:
        reason = f'runc create failed: exec: "{error}": executable file not found in $PATH: unknown'
        _fail_start(contract, machine, reason)
        return
    contract.actual_status = "running"
    contract.status_msg = f"success, running {contract.image}\n"
    contract.running_since = world.now()
    await server_faults.apply(contract, world)


def _fail_start(contract: Contract, machine: Machine, reason: str) -> None:
    contract.fail_creation(reason)
    if machine.rented_by == contract.id:
        machine.rented_by = None
