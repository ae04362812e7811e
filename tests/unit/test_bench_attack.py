"""The attack bench, on a server with the guard's bounds and on one without."""

import os

import pytest

from bench.attack import Figure, attacking, connections, measure, table
from bench.load import BenchTarget
from components.guard.server import Bounds
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
    bounds = Bounds(handshake_s=limit_s, header_s=limit_s)
    with guarded(Stub(Served(("m",))), KEY, identity=identity, bounds=bounds) as guard:
        at = BenchTarget("guard", f"https://127.0.0.1:{guard.port}", "m", KEY, ca, pid=os.getpid())
        with attacking(at, "half-sent", 0.0):
            until(lambda: connections(at.url) > 0)
            until(lambda: connections(at.url) == left)
        [found] = measure([at], ["headers"], 0.5, left_after_s=0.1)
    assert found.failed == 0
    assert 0 < found.quiet_p50_ms <= found.quiet_p99_ms
    assert found.rss_before_mb <= found.rss_peak_mb


def test_an_attack_is_compared_with_the_quiet_before_it():
    figure = Figure("2 headers", "guard", 600, 9.0, 20.0, 590, 1, 12.0, 30.0, 40.0, 44.0, 41.0, 0)
    row = table([figure]).splitlines()[-1]
    assert row == "| 2 headers | guard | 9 to 12 ms | 20 ms | 30 ms | 1.50 | 1 of 590 | 40, 44, 41 | 0 |"
