"""Helpers for tests of fleets: a stack behind a real Caddy, commands of ops/, and the count of billed instances."""

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
    """URL, key and CA file for clients of a stack, also for harness.load.LoadGenerator."""

    url: str
    key: str
    ca: str

    def ask(self, key=None, **options):
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return requests.post(f"{self.url}/rerank", json=BODY, headers=headers, verify=self.ca, timeout=30, **options)


def up(stack, *, timeout_s=300):
    """Deploy with enough parallelism for a fleet."""
    result = stack.run("up", "--yes", "--skip-preview", "--parallel", "64", timeout_s=timeout_s)
    assert result.rc == 0, result.text


def behind(gateway_caddy, folder, market, *, replicas, timeout_s=300, **config):
    """Deploy a stack of replicas behind that Caddy. SSL_CERT_FILE makes ops/ trust its front proxy."""
    config = {"replicas": replicas, "timeouts.drain_s": 20, **gateway_caddy.config, **config}
    stack = EngineStack(folder, market.url, config=config, env={"SSL_CERT_FILE": gateway_caddy.ca_file}).init()
    up(stack, timeout_s=timeout_s)
    return stack


def endpoint(stack):
    outputs = stack.outputs()
    ca = stack.env.get("SSL_CERT_FILE") or ca_file(outputs["ca_certificate"])
    return Endpoint(outputs["url"], outputs["api_key"], ca)


class Ops:
    """A command of ops/ on a stack; `end` sets `document` to its JSON."""

    def __init__(self, stack, command, *args):
        argv = [sys.executable, "-m", "ops", command, "--stack", stack.name, "--cwd", str(stack.project), "--json"]
        self.process = subprocess.Popen(
            [*argv, *args],
            cwd=REPO, env=stack.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def end(self, timeout_s=500):
        self.out, self.err = self.process.communicate(timeout=timeout_s)
        self.rc = self.process.returncode
        self.document = json.loads(self.out) if self.out.strip().startswith("{") else {}
        return self


class AtTerminal:
    """A command of ops/ (or `program`) on a stack, with a pseudo-terminal; `output`: its output so far."""

    def __init__(self, stack, command, *args, program=(sys.executable, "-m", "ops"), columns=80):
        argv = [*program, command, "--stack", stack.name, "--cwd", str(stack.project), *args]
        self._terminal, child = pty.openpty()
        self.resize(columns)
        env = {"TERM": "xterm", **stack.env}
        self.process = subprocess.Popen(argv, cwd=REPO, env=env, stdin=child, stdout=child, stderr=child)
        os.close(child)
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                self.output += os.read(self._terminal, 65536).decode(errors="replace")
            except OSError:  # all processes have closed the terminal
                return

    def resize(self, columns):
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

    def type(self, text):
        os.write(self._terminal, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout_s=300):
        rc = self.process.wait(timeout=timeout_s)
        self._reader.join(timeout=10)
        os.close(self._terminal)
        return rc


def ops(stack, command, *args):
    return Ops(stack, command, *args).end()


class BilledCount:
    """Polls the ledger during a block; `max` is the highest number of instances that were billed at once."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.max = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self):
        while not self._end.is_set():
            self.max = max(self.max, len(self.ledger.billed()))
            time.sleep(0.1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
