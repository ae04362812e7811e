"""How a container runs: `none` (answered by the emulator), `stub` and `vllm` (a process, through the image's command).

Called by the world when a contract's container is to start or stop. Only `none` opens sockets in the emulator itself.
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
from emulator.rental import argv_of
from emulator.stub_faults import ServerFault

Runtime = Literal["none", "stub", "vllm"]
REPO = Path(__file__).resolve().parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Below those from which Linux draws ports for outgoing connections (32768 on): one of these could take a port between
# the look at it and the server's own bind.
PORT_RANGE = (10_000, 32_767)
PORTS = random.SystemRandom()
DRAWS = 1000
FAULT_FILE = "fault.json"
WAKE_WITHIN_S = 0.2
# the guard, which listens at the container's port, goes by way of its shim
PYTHON3 = """if [ "$1 $2" = "-m guard" ]; then shift 2; exec {} "$@"; fi
exec {} "$@\""""


@dataclass
class RuntimeSettings:
    """What containers are made of."""

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
        """Start a container; None for the runtime without processes. Raises NotExecutable."""
        folder = self.folder(contract_id)
        folder.mkdir(parents=True, exist_ok=True)
        self.temporary(contract_id).mkdir(mode=0o700, exist_ok=True)
        if self.settings.runtime == "none":
            read = partial(ServerFault.read, folder / FAULT_FILE)
            log = partial(self.append_log, contract_id)
            server = stub_inline.InlineServer(body, ip, ports, self.temporary(contract_id), read=read, log=log)
            self._servers[contract_id] = server
            await server.started()
            if "vllm" in " ".join(argv_of(body)):  # another image's log is not known here
                line = f"INFO serving {stub_inline.model_of(body)}, by the emulator itself"
                self.append_log(contract_id, f"{line}\nApplication startup complete.")
            return None
        self._install(folder, ip, ports)
        return Process.start(argv_of(body), self._env(contract_id, body, ip, ports, folder), folder)

    async def stop(self, contract_id: int) -> None:
        """Remove a container's /tmp, and stop answering for it where the emulator itself does."""
        if server := self._servers.pop(contract_id, None):
            server.close()
        shutil.rmtree(self.temporary(contract_id), ignore_errors=True)

    async def set_fault(self, contract_id: int, fault: dict[str, Any], ip: str, ports: dict[int, int]) -> None:
        """Let a container's server go wrong as a ServerFault of these fields says, or no more when there are none."""
        file = self.folder(contract_id) / FAULT_FILE
        if not fault and not file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_suffix(".new")
        made.write_text(json.dumps(fault))
        made.replace(file)
        for outer in ports.values() if fault.get("kind") == "firewall" else ():  # a server looks when somebody calls
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(WAKE_WITHIN_S):
                    _, writer = await asyncio.open_connection(ip, outer)
                    writer.close()

    def wipe(self, contract_id: int) -> None:
        """Forget a container's files, as recycling and destroying do."""
        shutil.rmtree(self.folder(contract_id), ignore_errors=True)

    def folder(self, contract_id: int) -> Path:
        """Return where a container keeps its files."""
        return self.settings.folder / "containers" / str(contract_id)

    def temporary(self, contract_id: int) -> Path:
        """Return a container's /tmp: a short path, since servers make sockets there, which take 107 characters."""
        mark = hashlib.sha256(str(self.settings.folder).encode()).hexdigest()[:6]
        return Path(tempfile.gettempdir()) / f"vast-{mark}-{contract_id}"

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
        """Return the container's environment: what Vast and the contract give it, and nothing of the emulator's own."""
        given = {str(k): str(v) for k, v in (body.get("env") or {}).items() if not str(k).startswith("-")}
        cache = {}
        if self.settings.runtime == "vllm":  # what was downloaded once must not be downloaded by every container
            cache["HF_HOME"] = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
        return {
            "HOME": str(folder),
            "TMPDIR": str(self.temporary(contract_id)),
            "LANG": "C.UTF-8",
            **cache,
            **given,
            "PATH": f"{folder / 'bin'}:{given.get('PATH', PATH)}",
            "CONTAINER_ID": str(contract_id),
            "PUBLIC_IPADDR": ip,
            **{f"VAST_TCP_PORT_{inner}": str(outer) for inner, outer in ports.items()},
        }

    def _install(self, folder: Path, ip: str, ports: dict[int, int]) -> None:
        """Put `vllm`, `python3` and, where there is one, `caddy` into a container."""
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
            lead = [sys.executable, "-I", str(REPO / "emulator" / f"{name}_shim.py"), str(programs / "shim.json")]
            scripts[name] = f'exec {shlex.join(lead)} "$@"'
        for name, script in scripts.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)


def free_port(ip: str) -> int:
    """Return a random port that can be bound on an address. Raises OSError when there is none.

    Random, as emulators of several runs share the addresses: the first free one would be the same for all of them.
    """
    for _ in range(DRAWS):
        port = PORTS.randint(*PORT_RANGE)
        if can_bind(ip, port):
            return port
    raise OSError(f"no port can be bound on {ip}; is it an address of this machine?")


def free_ports(ip: str, inner: list[int]) -> dict[int, int]:
    """Return a port of its own for each port of a container."""
    found: dict[int, int] = {}
    while len(found) < len(set(inner)):
        port = free_port(ip)
        if port not in found.values():
            found[next(one for one in inner if one not in found)] = port
    return found


def can_bind(ip: str, port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True
