"""The table of the fleet benchmark. No fleet is measured here."""

from bench.provision import FEW_THREADS, LIST, PACED, PLAIN, READ, FleetTiming, table

ONE = FleetTiming(1, PLAIN, 22.0, 2.0, 1.5, {LIST: 21, READ: 1}, {LIST: 1})
MANY = FleetTiming(64, PLAIN, 33.0, 5.0, 6.0, {LIST: 126}, {LIST: 3})
LARGE_PACED = FleetTiming(64, PACED, 400.0, None, 120.0, {LIST: 30}, {})
FEW = FleetTiming(64, FEW_THREADS, 90.0, None, 30.0, {}, {})
FLEETS = [ONE, FleetTiming(16, PLAIN, 24.0, 3.0, 3.0, {}, {}), MANY, LARGE_PACED, FEW]


def test_a_fleet_is_compared_with_one_replica_of_the_same_run():
    lines = table(FLEETS).splitlines()
    assert "| 64 | pacing off | 33.0 s | 1.50 | 5.0 s | 2.50 | 6.0 s | 126, 0 | 3, 0 |" in lines
    assert f"| 64 | {PACED} | 400.0 s | 18.18 |  |  | 120.0 s | 30, 0 |  |" in lines
