"""Fleets for the engine's tests: a stack behind a real Caddy, ops/ as a person runs it, load, and who is billed."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from components.caddy.front import front as front_config
from components.caddy.process import Caddy, running
from components.caddy.record import Certificate
from components.vast.identity import Authority
from emulator.runtime import free_port
from harness.stack import REPO, EngineStack


@dataclass
class Front:
    """What `tests.gateway.conftest.Load` needs to know of an address."""

    url: str
    key: str
    ca: str


@dataclass
class Gate:
    """A Caddy that is told by its socket, and the door before it, which clients talk to and which never changes."""

    caddy: Caddy
    config: dict[str, str]
    ca: str


@contextlib.contextmanager
def gate(folder):
    """Start both for the length of a block."""
    port, authority, back = free_port("127.0.0.1"), Authority.make("door"), folder / "g.sock"
    certificate = Certificate("pem", *authority.issue("127.0.0.1").pem())
    (folder / "door.pem").write_text(authority.certificate)
    with (
        running(folder / "c") as caddy,
        running(folder / "d", front_config(f"127.0.0.1:{port}", str(back), certificate)),
    ):
        config = {
            "gateway": "caddy",
            "gateway_admin_url": caddy.admin_url,
            "gateway_listen": f"unix/{back}|0600",
            "gateway_url": f"https://127.0.0.1:{port}",
        }
        yield Gate(caddy, config, str(folder / "door.pem"))


def behind(gate, folder, market, *, replicas, **config):
    """Return a stack of replicas behind that Caddy, deployed; ops/ trusts its door as a person's shell has it."""
    config = {"replicas": replicas, "drain_timeout_s": 20, **gate.config, **config}
    stack = EngineStack(folder, market.url, config=config, env={"SSL_CERT_FILE": gate.ca}).init()
    done = stack.up("--parallel", "16")
    assert done.rc == 0, done.text
    return stack


def front(stack, folder):
    """Return where a stack's clients go, and the file with the CA to trust."""
    out = stack.outputs()
    ca = folder / "ca.pem"
    ca.write_text(out["ca_certificate"])
    return Front(out["url"], out["api_key"], stack.env.get("SSL_CERT_FILE") or str(ca))


class Ops:
    """A command of ops/ on a stack; `document` is its JSON once it has ended."""

    def __init__(self, stack, command, *args):
        words = [sys.executable, "-m", "ops", command, "--stack", stack.name, "--cwd", str(stack.project), "--json"]
        self.process = subprocess.Popen(
            [*words, *args],
            cwd=REPO, env=stack.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def end(self, timeout_s=500):
        out, self.err = self.process.communicate(timeout=timeout_s)
        self.rc = self.process.returncode
        self.out = out
        self.document = json.loads(out) if out.strip().startswith("{") else {}
        return self


class AtTerminal:
    """A command of ops/ on a stack, at a terminal of its own: what is typed, and what is shown so far."""

    def __init__(self, stack, command, *args):
        words = [sys.executable, "-m", "ops", command, "--stack", stack.name, "--cwd", str(stack.project), *args]
        self._here, there = pty.openpty()
        self.process = subprocess.Popen(words, cwd=REPO, env=stack.env, stdin=there, stdout=there, stderr=there)
        os.close(there)
        self.shown = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                self.shown += os.read(self._here, 65536).decode(errors="replace")
            except OSError:  # nobody has the terminal open any more
                return

    def type(self, text):
        os.write(self._here, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout_s=300):
        rc = self.process.wait(timeout=timeout_s)
        self._reader.join(timeout=10)
        os.close(self._here)
        return rc


def ops(stack, command, *args):
    return Ops(stack, command, *args).end()


class Billed:
    """Looks at the ledger in a block, many times a second: the most instances that were billed at once."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self._end.is_set():
            self.most = max(self.most, len(self.ledger.billed()))
            time.sleep(0.1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


def p99_ms(load):
    """Return the slowest but one in a hundred of a load's answers."""
    found = sorted(load.latencies_s)
    return found[int(len(found) * 0.99)] * 1000
