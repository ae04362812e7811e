"""`python -m bench attack`: what another client meets, and what a server holds, while somebody without a key attacks.

Called by `bench.__main__`. Each target under attack stands beside what it is compared with, turn by turn in one run:
vLLM behind the guard beside vLLM with its own key and TLS, a rented gateway's front beside one that reads a body
before it knows the key. The attacker is this file in a process of its own, at an address and a priority of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from bench import guard, local_vllm
from bench.load import BenchTarget
from bench.serving import quantile
from components.caddy.front_proxy import NAME, front_proxy_config
from components.vast.json_values import Json
from harness.caddy import running_front_proxy
from harness.load import Load
from harness.stack import REPO
from ops.report import table as markdown

ATTACKER = "127.0.0.2"
REOPEN_S = 2.0  # after the server ended a connection, while the attack lasts
CLIENT_PER_S, CLIENT_THREADS = 20.0, 40
LEFT_AFTER_S = 75.0
AFTER_S = 1.0
MIB = 1 << 20
HEAD = b"POST /rerank HTTP/1.1\r\nHost: bench\r\n"
Served = Literal["vllm", "gateway"]


@dataclass(frozen=True)
class Attack:
    """So many connections, each of which sends a start and so many bytes more, and waits for its end."""

    what: str
    connections: int
    start: bytes
    more_bytes: int = 0


ATTACKS = {
    "headers": Attack("2 headers of 96 MiB", 2, HEAD + b"X: ", 96 * MIB),
    "half-sent": Attack("300 half-sent headers", 300, HEAD),
    "bodies": Attack("24 bodies of 16 MiB", 24, HEAD + b"Content-Length: %d\r\n\r\n" % (16 * MIB), 16 * MIB - 1),
}


@dataclass(frozen=True)
class Figure:
    """One attack on one target: a client's latencies without it and during it, the memory of the process that clients
    talk to before, at most, and after it, and the connections that are open long after the last was opened."""

    attack: str
    target: str
    quiet_requests: int
    quiet_p50_ms: float
    quiet_p99_ms: float
    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    rss_before_mb: float
    rss_peak_mb: float
    rss_after_mb: float
    connections_left: int


@contextlib.contextmanager
def running(served: Served) -> Iterator[list[BenchTarget]]:
    """Start a target with this project's bounds, and the one without."""
    with contextlib.ExitStack() as stack:
        if served == "vllm":
            fast = ("--enforce-eager",)  # what is compared is not the model
            bounded = local_vllm.Variant("vLLM behind the guard", guard=True, tls=True, extra_args=fast)
            exposed = local_vllm.Variant("vLLM, its own key and TLS", guard=False, tls=True, extra_args=fast)
            yield stack.enter_context(local_vllm.running([bounded, exposed]))
            return
        fronts = {"gateway": front_proxy_config, "gateway that reads bodies first": _body_first}
        targets = []
        for name, make_config in fronts.items():
            upstream = stack.enter_context(guard.target(name, "--guard", "--tls"))
            front = partial(running_front_proxy, make_config=make_config)
            targets.append(stack.enter_context(local_vllm.gateway(name, upstream, front)))
        yield targets


def _body_first(listen: str, *args: Json, **kwargs: Json) -> dict[str, Json]:
    """Return the config of a front that reads each body, whole, and leaves key and deadlines to the gateway."""
    config = front_proxy_config(listen, *args, **kwargs)
    servers = config["apps"]["http"]["servers"]
    servers[NAME] = servers.pop("bodies") | {one: servers[NAME][one] for one in ("listen", "tls_connection_policies")}
    return config


def measure(
    targets: Sequence[BenchTarget], attacks: Sequence[str], seconds: float, left_after_s: float = LEFT_AFTER_S
) -> list[Figure]:
    """Attack each target by each of some ATTACKS, after as long without one. What a target holds, it holds while the
    next ones have their turn, so those that should hold nothing come first."""
    found = []
    for attack in attacks:
        with contextlib.ExitStack() as stack:
            turns = [_turn(stack, target, attack, seconds) for target in targets]
            time.sleep(left_after_s)
            left = [connections(target.url) for target in targets]
        for target, turn, held in zip(targets, turns, left, strict=True):
            _load(target, AFTER_S)
            found.append(_figure(target, attack, turn, held))
            sys.stderr.write(f"{found[-1]}\n")
    return found


@dataclass(frozen=True)
class Turn:
    """A client's load without an attack and during it, and the server's memory between them."""

    quiet: Load
    attacked: Load
    rss_mb: float


def _turn(stack: contextlib.ExitStack, target: BenchTarget, attack: str, seconds: float) -> Turn:
    """Load a target, then attack it for as long as the stack lasts and load it again, until all is answered."""
    _load(target, AFTER_S)  # connections, and caches
    quiet = _load(target, seconds)
    Path(f"/proc/{target.pid}/clear_refs").write_text("5")  # the most begins anew
    rss = memory_mb(target.pid, "VmRSS")
    stack.enter_context(attacking(target, attack, seconds))
    return Turn(quiet, _load(target, seconds), rss)


def _load(target: BenchTarget, seconds: float) -> Load:
    with Load(target, per_s=CLIENT_PER_S, threads=CLIENT_THREADS) as load:
        time.sleep(seconds)
    return load


def _figure(target: BenchTarget, attack: str, turn: Turn, left: int) -> Figure:
    quiet_ms, ms = (sorted(one.took_s * 1000 for one in load.ended) for load in (turn.quiet, turn.attacked))
    return Figure(
        attack=ATTACKS[attack].what,
        target=target.name,
        quiet_requests=len(quiet_ms),
        quiet_p50_ms=quantile(quiet_ms, 0.5),
        quiet_p99_ms=quantile(quiet_ms, 0.99),
        requests=len(ms),
        failed=len(turn.attacked.failures),
        p50_ms=quantile(ms, 0.5),
        p99_ms=quantile(ms, 0.99),
        rss_before_mb=turn.rss_mb,
        rss_peak_mb=memory_mb(target.pid, "VmHWM"),
        rss_after_mb=memory_mb(target.pid, "VmRSS"),
        connections_left=left,
    )


def table(found: Sequence[Figure]) -> str:
    """Return the figures as Markdown."""
    head = ["attack", "target", "p50", "p99 quiet", "p99 attacked", "to quiet", "failed", "MB before, most, after"]
    rows = [
        [
            one.attack,
            one.target,
            f"{one.quiet_p50_ms:.0f} to {one.p50_ms:.0f} ms",
            f"{one.quiet_p99_ms:.0f} ms",
            f"{one.p99_ms:.0f} ms",
            f"{one.p99_ms / one.quiet_p99_ms:.2f}",
            f"{one.failed} of {one.requests}",
            f"{one.rss_before_mb:.0f}, {one.rss_peak_mb:.0f}, {one.rss_after_mb:.0f}",
            str(one.connections_left),
        ]
        for one in found
    ]
    return markdown([*head, f"connections after {LEFT_AFTER_S:.0f} s"], rows)


def memory_mb(pid: int, what: str) -> float:
    """Return VmRSS, the resident memory of a process on this machine, or VmHWM, the most that it had."""
    match = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def connections(url: str) -> int:
    """Count the attacker's connections that a server on this machine holds: established, or ended by the client."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{urlsplit(url).port:04X}"
    peer = socket.inet_aton(ATTACKER)[::-1].hex().upper()
    return sum(row[1].endswith(port) and row[2].startswith(peer) and row[3] in ("01", "08") for row in rows)


@contextlib.contextmanager
def attacking(target: BenchTarget, attack: str, seconds: float) -> Iterator[None]:
    """Attack for the length of a block, and open no connection after some seconds."""
    command = [sys.executable, "-m", "bench.attack", attack, target.url, str(seconds)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it begins
            yield
        finally:
            process.kill()


def attack_once(url: str, attack: Attack) -> None:
    """Open a connection, send what it sends, and return when the server has ended it."""
    at, context = urlsplit(url), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    part = b"x" * (64 << 10)
    with contextlib.suppress(OSError):
        plain = socket.create_connection((at.hostname, at.port), source_address=(ATTACKER, 0))
        with context.wrap_socket(plain) as line:
            line.sendall(attack.start)
            for sent in range(0, attack.more_bytes, len(part)):
                line.sendall(part[: attack.more_bytes - sent])
            while line.recv(len(part)):
                pass


def main(name: str, url: str, seconds: str) -> None:
    """Attack until killed; a connection that was ended is opened again for some seconds."""
    os.nice(19)  # what an attacker's machine computes is not the server's
    attack, end = ATTACKS[name], time.monotonic() + float(seconds)

    def repeat() -> None:
        attack_once(url, attack)
        while time.monotonic() + REOPEN_S < end:
            time.sleep(REOPEN_S)
            attack_once(url, attack)

    sys.stdout.write("begins\n")
    sys.stdout.flush()
    for _ in range(attack.connections):
        threading.Thread(target=repeat).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
