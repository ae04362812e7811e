"""How a container runs: `none` (answered by the emulator), `stub` and `vllm` (a process, through the image's command).

Called by the world when a contract's container is to start or stop. Only `none` opens sockets in the emulator itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from emulator.process import Process
from emulator.scoring import respond

Runtime = Literal["none", "stub", "vllm"]
ENTRYPOINT = ("vllm", "serve")
REPO = Path(__file__).resolve().parent.parent


@dataclass
class Settings:
    """What containers are made of."""

    runtime: Runtime = "none"
    folder: Path = field(default_factory=lambda: Path("."))
    vllm_python: Path | None = None
    models: dict[str, str] = field(default_factory=dict)
    offline: bool = True


class Containers:
    """Starts and stops containers by contract id."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sites: dict[int, Any] = {}
        self._silent: set[int] = set()

    async def start(self, contract_id: int, body: dict[str, Any], ip: str, ports: dict[int, int]) -> Process | None:
        """Start a container; None for the runtime without processes. Raises NotExecutable."""
        if self.settings.runtime == "none":
            await self._listen(contract_id, body, ip, ports)
            return None
        folder = self.settings.folder / "containers" / str(contract_id)
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary(contract_id).mkdir(exist_ok=True)
        return Process.start(self._argv(body), self._env(contract_id, body, ip, ports, folder), folder)

    def _temporary(self, contract_id: int) -> Path:
        """Return a container's /tmp: a short path, since servers make sockets there, which take 107 characters."""
        mark = hashlib.sha256(str(self.settings.folder).encode()).hexdigest()[:6]
        return Path(tempfile.gettempdir()) / f"vast-{mark}-{contract_id}"

    async def stop(self, contract_id: int) -> None:
        """Remove a container's /tmp, and stop answering for it where the emulator itself does."""
        shutil.rmtree(self._temporary(contract_id), ignore_errors=True)
        self._silent.discard(contract_id)  # whoever waits for an answer is let go
        server = self._sites.pop(contract_id, None)
        if server is not None:
            listener, handler = server
            listener.close()
            await handler.shutdown(0.0)

    def silence(self, contract_id: int, *, on: bool) -> None:
        """Let a container of the `none` runtime take connections and answer nothing."""
        (self._silent.add if on else self._silent.discard)(contract_id)

    def log(self, contract_id: int, lines: int) -> str:
        """Return the end of a container's log."""
        path = self.settings.folder / "containers" / str(contract_id) / "log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) + "\n"

    def append_log(self, contract_id: int, text: str) -> None:
        """Add to a container's log, for faults."""
        folder = self.settings.folder / "containers" / str(contract_id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log").open("a") as log:
            log.write(text + "\n")

    @staticmethod
    def _argv(body: dict[str, Any]) -> list[str]:
        args = [str(one) for one in body.get("args") or []]
        entrypoint = body.get("onstart") if body.get("runtype") == "args" else None
        return [str(entrypoint), *args] if entrypoint else [*ENTRYPOINT, *args]

    def _env(
        self, contract_id: int, body: dict[str, Any], ip: str, ports: dict[int, int], folder: Path
    ) -> dict[str, str]:
        given = {str(k): str(v) for k, v in (body.get("env") or {}).items() if not str(k).startswith("-")}
        python = self.settings.vllm_python if self.settings.runtime == "vllm" else Path(sys.executable)
        shim = {
            "runtime": self.settings.runtime,
            "python": str(python),
            "source": str(REPO),
            "ip": ip,
            "ports": ports,
            "models": self.settings.models,
            "offline": self.settings.offline,
        }
        return {
            "PATH": f"{self._bin()}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(self._temporary(contract_id)),
            "LANG": "C.UTF-8",
            "CONTAINER_ID": str(contract_id),
            "PUBLIC_IPADDR": ip,
            "EMULATOR_SHIM": json.dumps(shim),
            **{f"VAST_TCP_PORT_{inner}": str(outer) for inner, outer in ports.items()},
            **given,
        }

    def _bin(self) -> Path:
        """Return the folder that holds `vllm` for containers."""
        folder = self.settings.folder / "bin"
        script = folder / "vllm"
        if not script.exists():
            folder.mkdir(parents=True, exist_ok=True)
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{REPO / "emulator" / "vllm_shim.py"}" "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return folder

    async def _listen(self, contract_id: int, body: dict[str, Any], ip: str, ports: dict[int, int]) -> None:
        model = _model_of(body)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            while contract_id in self._silent:
                await asyncio.sleep(0.2)
            status, answer = respond(request.method, request.path, await request.read(), model, model)
            return web.Response(text=answer) if isinstance(answer, str) else web.json_response(answer, status=status)

        server = web.Server(handle)
        loop = asyncio.get_running_loop()
        outer = next(iter(ports.values()), None)
        if outer is not None:
            self._sites[contract_id] = (await loop.create_server(server, ip, outer), server)


def _model_of(body: dict[str, Any]) -> str:
    """Return the model that a launch names, in the image's own form or in a boot script."""
    words = " ".join(str(one) for one in body.get("args") or []).replace("'", "").split()
    for before, word in pairwise(words):
        if before in ("--model", "serve"):
            return word
    return "model"


def free_port(ip: str) -> int:
    """Return a random port that can be bound on an address; random for good, so that two markets do not collide."""
    while True:
        port = 20000 + secrets.randbelow(40000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ip, port))
            except OSError:
                continue
            return port
