"""The attack benchmark, on a server with short deadlines of the guard and on one with long ones."""

import os

import pytest

from bench.attack import AttackFigure, count_connections, measure, running_attack, table
from bench.load import BenchTarget
from components.guard.connection import Bounds
from components.vast.identity import Authority
from emulator.scoring import Served
from emulator.stub import Stub
from harness.certificates import ca_file
from harness.guard import guarded
from harness.wait import until

KEY = "k" * 32


@pytest.mark.all
@pytest.mark.parametrize(("limit_s", "left"), [(0.5, 0), (60.0, 64)])
def test_connections_that_a_server_ends_and_those_that_it_holds_are_told_apart(limit_s, left):
    authority = Authority.make("bench", ["127.0.0.0/8"])
    identity, ca = authority.issue("127.0.0.1").pem(), ca_file(authority.certificate)
    bounds = Bounds(handshake_s=limit_s, header_s=limit_s, without_key_per_s=0.001)
    with guarded(Stub(Served(("m",))), KEY, identity=identity, bounds=bounds) as guard:
        target = BenchTarget("guard", f"https://127.0.0.1:{guard.port}", "m", KEY, ca, pid=os.getpid())
        with running_attack(target, "half-sent", 0.0):
            until(lambda: count_connections(target.url) > 0)
            until(lambda: count_connections(target.url) == left)
        guard.server.allowances.clear()
        [figure] = measure([target], ["headers"], 2, 0.5, after_s=0.1)
    assert figure.failed == 0
    assert figure.requests > 15  # 20 a second in two rounds of half a second
    assert 0 < figure.low <= figure.ratio <= figure.high
    assert 0 < figure.quiet_p50_ms <= figure.quiet_p99_ms
    assert figure.rss_before_mb <= figure.rss_peak_mb


def test_an_attack_is_compared_with_the_quiet_before_it():
    figure = AttackFigure("2 headers", "guard", 600, 9.0, 20.0, 590, 1, 12.0, 30.0, 1.4, 1.2, 1.6, 40.0, 44.0, 41.0, 0)
    row = table([figure]).splitlines()[-1]
    assert row == "| 2 headers | guard | 9 to 12 ms | 20 ms | 30 ms | 1.40 (1.20 to 1.60) | 1 of 590 | 40, 44, 41 | 0 |"
