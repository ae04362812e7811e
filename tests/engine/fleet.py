"""Fleets for the engine's tests: a stack behind a real Caddy, ops/ as a person runs it, load, and who is billed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass

import requests

from harness.certificates import ca_file
from harness.load import BODY
from harness.stack import REPO, EngineStack


@dataclass
class Endpoint:
    """Where a stack's clients go; harness.load.LoadGenerator takes one."""

    url: str
    key: str
    ca: str

    def ask(self, key=None, **options):
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return requests.post(f"{self.url}/rerank", json=BODY, headers=headers, verify=self.ca, timeout=30, **options)


def up(stack, *, timeout_s=300):
    """Deploy as wide as a fleet is."""
    done = stack.run("up", "--yes", "--skip-preview", "--parallel", "64", timeout_s=timeout_s)
    assert done.rc == 0, done.text


def behind(gateway_caddy, folder, market, *, replicas, timeout_s=300, **config):
    """Return a stack of replicas behind that Caddy, deployed; ops/ trusts its front as a person's shell does."""
    config = {"replicas": replicas, "timeouts.drain_s": 20, **gateway_caddy.config, **config}
    stack = EngineStack(folder, market.url, config=config, env={"SSL_CERT_FILE": gateway_caddy.ca_file}).init()
    up(stack, timeout_s=timeout_s)
    return stack


def endpoint(stack):
    """Return where a stack's clients go, and the file with the CA to trust."""
    out = stack.outputs()
    return Endpoint(out["url"], out["api_key"], stack.env.get("SSL_CERT_FILE") or ca_file(out["ca_certificate"]))


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
    """A command of ops/ (or `program`) on a stack, at a terminal of its own: what is typed, what is shown so far."""

    def __init__(self, stack, command, *args, program=(sys.executable, "-m", "ops"), columns=80):
        words = [*program, command, "--stack", stack.name, "--cwd", str(stack.project), *args]
        self._here, there = pty.openpty()
        self.resize(columns)
        env = {"TERM": "xterm", **stack.env}
        self.process = subprocess.Popen(words, cwd=REPO, env=env, stdin=there, stdout=there, stderr=there)
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

    def resize(self, columns):
        fcntl.ioctl(self._here, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

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
