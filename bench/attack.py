"""`python -m bench attack`: latency of a client, and memory of the server, during an attack without a key.

Called by `bench.__main__`. One run compares vLLM behind the guard with vLLM with its own key and TLS, or a gateway's
front proxy with one that reads a body before it checks the key. Here vLLM, client and attacker compete for the CPU, so
the target "guard" has a server that needs almost none in place of vLLM. The attacker is this file in a separate
process, with another address and the lowest priority.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import ssl
import statistics
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
from bench.serving import interval, quantile
from components.caddy.front_proxy import NAME, front_proxy_config
from components.vast.json_values import Json
from harness.caddy import running_front_proxy
from harness.load import LoadGenerator
from harness.stack import REPO
from ops.report import table as markdown

ATTACKER = "127.0.0.2"
REOPEN_S = 2.0  # pause before the attacker reopens a connection that the server closed
CLIENT_PER_S, CLIENT_THREADS = 20.0, 40
COUNT_AFTER_S = 75.0
SHORT_LOAD_S = 1.0
MIB = 1 << 20
HEAD = b"POST /rerank HTTP/1.1\r\nHost: bench\r\n"
Served = Literal["vllm", "guard", "gateway"]


@dataclass(frozen=True)
class Attack:
    """Every connection sends `start` and `remaining_bytes`, then waits until the server closes it."""

    description: str
    connections: int
    start: bytes
    remaining_bytes: int = 0


ATTACKS = {
    "headers": Attack("2 headers of 96 MiB", 2, HEAD + b"X: ", 96 * MIB),
    "half-sent": Attack("300 half-sent headers", 300, HEAD),
    "bodies": Attack("24 bodies of 16 MiB", 24, HEAD + b"Content-Length: %d\r\n\r\n" % (16 * MIB), 16 * MIB - 1),
}


@dataclass(frozen=True)
class AttackFigure:
    """One attack on one target: a client's latencies before (`quiet`) and during it in all rounds, the resident memory
    of the process that clients connect to, and the number of connections that are open COUNT_AFTER_S after the load
    ended. `ratio`: the median of the rounds' p99 to quiet p99. `low` and `high`: see `interval`."""

    attack: str
    target: str
    quiet_requests: int
    quiet_p50_ms: float
    quiet_p99_ms: float
    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    ratio: float
    low: float
    high: float
    rss_before_mb: float
    rss_peak_mb: float
    rss_after_mb: float
    connections_left: int


@contextlib.contextmanager
def running(served: Served) -> Iterator[list[BenchTarget]]:
    """Start a target with this project's limits, and except for "guard" one without."""
    with contextlib.ExitStack() as stack:
        if served == "guard":
            yield [stack.enter_context(guard.running_server("a server of 5 ms behind the guard", "--guard", "--tls"))]
            return
        if served == "vllm":
            eager = ("--enforce-eager",)  # boots faster; the speed of the model does not matter here
            guarded = local_vllm.Variant("vLLM behind the guard", guard=True, tls=True, extra_args=eager)
            exposed = local_vllm.Variant("vLLM, its own key and TLS", guard=False, tls=True, extra_args=eager)
            yield stack.enter_context(local_vllm.running([guarded, exposed]))
            return
        configs = {"gateway": front_proxy_config, "gateway that reads bodies first": _body_first_config}
        targets = []
        for name, make_config in configs.items():
            upstream = stack.enter_context(guard.running_server(name, "--guard", "--tls"))
            front_proxy = partial(running_front_proxy, make_config=make_config)
            targets.append(stack.enter_context(local_vllm.gateway(name, upstream, front_proxy)))
        yield targets


def _body_first_config(listen: str, *args: Json, **kwargs: Json) -> dict[str, Json]:
    """Return the config of a front proxy that reads every body completely, without a key check or deadlines."""
    config = front_proxy_config(listen, *args, **kwargs)
    servers = config["apps"]["http"]["servers"]
    servers[NAME] = servers.pop("bodies") | {key: servers[NAME][key] for key in ("listen", "tls_connection_policies")}
    return config


def measure(
    targets: Sequence[BenchTarget], attacks: Sequence[str], rounds: int, seconds: float, after_s: float = COUNT_AFTER_S
) -> list[AttackFigure]:
    """In each round, load each target during a quiet period and then during an attack, of `seconds` each. A target
    keeps connections and memory during the attacks on the next targets, so targets that should keep none come first."""
    figures = []
    for attack in attacks:
        before_mb = [_forget_peak(target) for target in targets]
        results = []
        for number in range(rounds):
            with contextlib.ExitStack() as stack:
                results.append([_attack_target(stack, target, attack, seconds) for target in targets])
                if number + 1 == rounds:
                    time.sleep(after_s)
                counts = [count_connections(target.url) for target in targets]
        for target, loads, rss_mb, count in zip(targets, zip(*results, strict=True), before_mb, counts, strict=True):
            _run_load(target, SHORT_LOAD_S)
            figures.append(_make_figure(target, attack, loads, rss_mb=rss_mb, connections=count))
            sys.stderr.write(f"{figures[-1]}\n")
    return figures


def _forget_peak(target: BenchTarget) -> float:
    """Load a target for a moment, reset its VmHWM, and return its resident memory in MB."""
    _run_load(target, SHORT_LOAD_S)
    Path(f"/proc/{target.pid}/clear_refs").write_text("5")
    return memory_mb(target.pid, "VmRSS")


def _attack_target(
    stack: contextlib.ExitStack, target: BenchTarget, attack: str, seconds: float
) -> tuple[LoadGenerator, LoadGenerator]:
    """Load a target, then load it again during an attack, which lasts until `stack` closes."""
    quiet = _run_load(target, seconds)
    stack.enter_context(running_attack(target, attack, seconds))
    return quiet, _run_load(target, seconds)


def _run_load(target: BenchTarget, seconds: float) -> LoadGenerator:
    with LoadGenerator(target, per_s=CLIENT_PER_S, threads=CLIENT_THREADS) as load:
        time.sleep(seconds)
    return load


def _make_figure(
    target: BenchTarget,
    attack: str,
    loads: Sequence[tuple[LoadGenerator, LoadGenerator]],
    *,
    rss_mb: float,
    connections: int,
) -> AttackFigure:
    rounds = [tuple(sorted(result.took_s * 1000 for result in load.results) for load in pair) for pair in loads]
    quiet_ms, ms = (sorted(itertools.chain(*side)) for side in zip(*rounds, strict=True))
    ratios = [quantile(attacked, 0.99) / quantile(quiet, 0.99) for quiet, attacked in rounds]
    low, high = interval(ratios)
    return AttackFigure(
        attack=ATTACKS[attack].description,
        target=target.name,
        quiet_requests=len(quiet_ms),
        quiet_p50_ms=quantile(quiet_ms, 0.5),
        quiet_p99_ms=quantile(quiet_ms, 0.99),
        requests=len(ms),
        failed=sum(len(attacked.failures) for _, attacked in loads),
        p50_ms=quantile(ms, 0.5),
        p99_ms=quantile(ms, 0.99),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        rss_before_mb=rss_mb,
        rss_peak_mb=memory_mb(target.pid, "VmHWM"),
        rss_after_mb=memory_mb(target.pid, "VmRSS"),
        connections_left=connections,
    )


def table(figures: Sequence[AttackFigure]) -> str:
    """Return the figures as Markdown."""
    head = ["attack", "target", "p50", "p99 quiet", "p99 attacked", "ratio (95 %)", "failed", "MB before, peak, after"]
    rows = [
        [
            figure.attack,
            figure.target,
            f"{figure.quiet_p50_ms:.0f} to {figure.p50_ms:.0f} ms",
            f"{figure.quiet_p99_ms:.0f} ms",
            f"{figure.p99_ms:.0f} ms",
            f"{figure.ratio:.2f} ({figure.low:.2f} to {figure.high:.2f})",
            f"{figure.failed} of {figure.requests}",
            f"{figure.rss_before_mb:.0f}, {figure.rss_peak_mb:.0f}, {figure.rss_after_mb:.0f}",
            str(figure.connections_left),
        ]
        for figure in figures
    ]
    return markdown([*head, f"connections after {COUNT_AFTER_S:.0f} s"], rows)


def memory_mb(pid: int, field: str) -> float:
    """Return VmRSS, the resident memory of a process on this machine, or VmHWM, its peak."""
    match = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def count_connections(url: str) -> int:
    """Count the attacker's connections that a local server keeps: established, or closed by the client only."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{urlsplit(url).port:04X}"
    peer = socket.inet_aton(ATTACKER)[::-1].hex().upper()
    return sum(row[1].endswith(port) and row[2].startswith(peer) and row[3] in ("01", "08") for row in rows)


@contextlib.contextmanager
def running_attack(target: BenchTarget, attack: str, seconds: float) -> Iterator[None]:
    """Attack during a block; after `seconds` the attacker opens no new connection."""
    command = [sys.executable, "-m", "bench.attack", attack, target.url, str(seconds)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the attack has started
            yield
        finally:
            process.kill()


def attack_once(url: str, attack: Attack) -> None:
    """Open one connection, send its data, and return when the server has closed it."""
    address, context = urlsplit(url), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    chunk = b"x" * (64 << 10)
    with contextlib.suppress(OSError):
        plain = socket.create_connection((address.hostname, address.port), source_address=(ATTACKER, 0))
        with context.wrap_socket(plain) as connection:
            connection.sendall(attack.start)
            for sent in range(0, attack.remaining_bytes, len(chunk)):
                connection.sendall(chunk[: attack.remaining_bytes - sent])
            while connection.recv(len(chunk)):
                pass


def main(name: str, url: str, seconds: str) -> None:
    """Attack until killed; for `seconds`, reopen connections that the server closed."""
    os.nice(19)  # a real attacker does not use the server's CPU
    attack, end = ATTACKS[name], time.monotonic() + float(seconds)

    def repeat() -> None:
        attack_once(url, attack)
        while time.monotonic() + REOPEN_S < end:
            time.sleep(REOPEN_S)
            attack_once(url, attack)

    print("started", flush=True)
    for _ in range(attack.connections):
        threading.Thread(target=repeat).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
