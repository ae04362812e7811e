"""Runs containers: `none` (sockets in the emulator), `stub` and `vllm` (a process with the image's command).

Called by `boot`, `world` and `server` to start and stop the container of a contract.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shlex
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from emulator import stub_inline
from emulator.process import Process
from emulator.rental import build_argv
from emulator.stub_faults import ServerFault

Runtime = Literal["none", "stub", "vllm"]
REPO = Path(__file__).resolve().parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Below Linux's range for outgoing connections (from 32768): such a connection could take a port between the check and
# the server's bind.
PORT_RANGE = (10_000, 32_767)
RANDOM = random.SystemRandom()
MAX_ATTEMPTS = 1000
FAULT_FILE = "fault.json"
WAKE_TIMEOUT_S = 0.2
# The guard listens at the container's port, so it runs through guard_shim.
PYTHON3 = """if [ "$1 $2" = "-m guard" ]; then shift 2; exec {} "$@"; fi
exec {} "$@\""""


@dataclass
class RuntimeSettings:
    """Settings for all containers."""

    runtime: Runtime = "none"
    folder: Path = field(default_factory=lambda: Path("."))
    vllm_python: Path | None = None
    models: dict[str, str] = field(default_factory=dict)
    offline: bool = True


class Containers:
    """Starts and stops containers by contract id."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self.settings = settings
        self._servers: dict[int, stub_inline.InlineServer] = {}

    async def start(self, contract_id: int, body: dict[str, Any], ip: str, ports: dict[int, int]) -> Process | None:
        """Start a container and return its process, None for the runtime `none`. Raises NotExecutable, OSError."""
        folder = self.folder(contract_id)
        folder.mkdir(parents=True, exist_ok=True)
        self.tmp_folder(contract_id).mkdir(mode=0o700, exist_ok=True)
        if self.settings.runtime == "none":
            read = partial(ServerFault.read, folder / FAULT_FILE)
            log = partial(self.append_log, contract_id)
            server = stub_inline.InlineServer(body, ip, ports, self.tmp_folder(contract_id), read=read, log=log)
            self._servers[contract_id] = server
            await server.wait_ready()
            if "vllm" in " ".join(build_argv(body)):  # the log of other images is unknown
                line = f"INFO serving {stub_inline.parse_model(body)} inside the emulator"
                self.append_log(contract_id, f"{line}\nApplication startup complete.")
            return None
        self._install(folder, ip, ports)
        return Process.start(build_argv(body), self._env(contract_id, body, ip, ports, folder), folder)

    async def stop(self, contract_id: int) -> None:
        """Remove a container's /tmp and close its sockets in the emulator, if any."""
        if server := self._servers.pop(contract_id, None):
            server.close()
        shutil.rmtree(self.tmp_folder(contract_id), ignore_errors=True)

    async def set_fault(self, contract_id: int, fault: dict[str, Any], ip: str, ports: dict[int, int]) -> None:
        """Set the fault of a container's server (fields of ServerFault); an empty dict removes the fault."""
        file = self.folder(contract_id) / FAULT_FILE
        if not fault and not file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        new_file = file.with_suffix(".new")
        new_file.write_text(json.dumps(fault))
        new_file.replace(file)
        for outer in ports.values() if fault.get("kind") == "firewall" else ():  # an accept makes the server read it
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(WAKE_TIMEOUT_S):
                    _, writer = await asyncio.open_connection(ip, outer)
                    writer.close()

    def wipe(self, contract_id: int) -> None:
        """Delete a container's files, after a recycle or a destroy."""
        shutil.rmtree(self.folder(contract_id), ignore_errors=True)

    def folder(self, contract_id: int) -> Path:
        return self.settings.folder / "containers" / str(contract_id)

    def tmp_folder(self, contract_id: int) -> Path:
        """Return a container's /tmp. The path is short: the path of a Unix socket has at most 107 characters."""
        digest = hashlib.sha256(str(self.settings.folder).encode()).hexdigest()[:6]
        return Path(tempfile.gettempdir()) / f"vast-{digest}-{contract_id}"

    def log(self, contract_id: int, lines: int) -> str:
        path = self.folder(contract_id) / "log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) + "\n"

    def append_log(self, contract_id: int, text: str) -> None:
        folder = self.folder(contract_id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log").open("a") as log:
            log.write(text + "\n")

    def _env(
        self, contract_id: int, body: dict[str, Any], ip: str, ports: dict[int, int], folder: Path
    ) -> dict[str, str]:
        """Return the container's environment: variables of Vast.ai and of the contract, none of the emulator."""
        contract_env = {str(k): str(v) for k, v in (body.get("env") or {}).items() if not str(k).startswith("-")}
        vllm_env = {}
        if self.settings.runtime == "vllm":  # containers share one download cache, and all cores
            vllm_env["HF_HOME"] = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
            # by default vLLM would bind the workers of all containers to the same core
            vllm_env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        return {
            "HOME": str(folder),
            "TMPDIR": str(self.tmp_folder(contract_id)),
            "LANG": "C.UTF-8",
            **vllm_env,
            **contract_env,
            "PATH": f"{folder / 'bin'}:{contract_env.get('PATH', PATH)}",
            "CONTAINER_ID": str(contract_id),
            "PUBLIC_IPADDR": ip,
            **{f"VAST_TCP_PORT_{inner}": str(outer) for inner, outer in ports.items()},
        }

    def _install(self, folder: Path, ip: str, ports: dict[int, int]) -> None:
        """Install the commands `vllm`, `python3` and, if available, `caddy` in a container."""
        python = self.settings.vllm_python if self.settings.runtime == "vllm" else Path(sys.executable)
        shim = {
            "runtime": self.settings.runtime,
            "python": str(python),
            "source": str(REPO),
            "fault_file": str(folder / FAULT_FILE),
            "ip": ip,
            "ports": {str(inner): outer for inner, outer in ports.items()},
            "models": self.settings.models,
            "offline": self.settings.offline,
            "caddy": shutil.which("caddy", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath])),
        }
        programs = folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        (programs / "shim.json").write_text(json.dumps(shim))
        python_shim = [python, "-P", REPO / "emulator" / "guard_shim.py", programs / "shim.json"]
        scripts = {"python3": PYTHON3.format(shlex.join(map(str, python_shim)), shlex.quote(str(python)))}
        for name in ("vllm", "caddy") if shim["caddy"] else ("vllm",):
            command = [sys.executable, "-I", str(REPO / "emulator" / f"{name}_shim.py"), str(programs / "shim.json")]
            scripts[name] = f'exec {shlex.join(command)} "$@"'
        for name, script in scripts.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)


def free_port(ip: str) -> int:
    """Return a random port that can be bound on an address. Raises OSError if there is none.

    The port is random because several emulators share the addresses: all would choose the same first free port.
    """
    for _ in range(MAX_ATTEMPTS):
        port = RANDOM.randint(*PORT_RANGE)
        if can_bind(ip, port):
            return port
    raise OSError(f"no port can be bound on {ip}; is it an address of this machine?")


def free_ports(ip: str, inner: list[int]) -> dict[int, int]:
    """Return a different free port for each port of a container."""
    ports: dict[int, int] = {}
    for port in inner:
        while port not in ports:
            outer = free_port(ip)
            if outer not in ports.values():
                ports[port] = outer
    return ports


def can_bind(ip: str, port: int) -> bool:
    """Return whether a server can bind this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True
