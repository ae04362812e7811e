"""The decision of ops scale, by table and by random loads; in the simulation its defaults beat fixed fleets."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scale import Curve, FixedFleet, SimulationSettings, best_fixed, compare, read_csv, simulate, verdict
from components.scaling import LoadTarget, Lull, Sample, ScaleLimits, decide

TARGET = LoadTarget(in_flight=100, samples=2, growth=2, boot_usd=0.08)
ANY = ScaleLimits(1, 8)
USD_H = 0.096  # a boot is 50 minutes of it


def made(in_flight, present, limits=ANY, lull=None, usd_h=USD_H):
    samples = [Sample(15.0 * number, each) for number, each in enumerate(in_flight)]
    return decide(samples, present, limits, replica_usd_h=usd_h, target=TARGET, lull=lull)


@pytest.mark.parametrize(
    ("in_flight", "present", "limits", "replicas", "why"),
    [
        ([90, 100], 1, ScaleLimits(1, 8), 1, "enough"),
        ([101, 120], 1, ScaleLimits(1, 8), 2, "load"),
        ([900, 101], 1, ScaleLimits(1, 8), 2, "load"),  # the lower of the two
        ([900, 900], 2, ScaleLimits(1, 8), 4, "load"),  # no more than twice itself at once
        ([900, 900], 6, ScaleLimits(1, 8), 8, "load"),
        ([900, 900], 8, ScaleLimits(1, 8), 8, "limits"),
        ([900, 100], 1, ScaleLimits(1, 8), 1, "enough"),  # one sample is none
        ([900], 1, ScaleLimits(1, 8), 1, "unknown"),
        ([], 2, ScaleLimits(1, 8), 2, "unknown"),
        ([0, 0], 1, ScaleLimits(1, 8), 1, "enough"),
        ([0, 0], 3, ScaleLimits(1, 8), 3, "enough"),  # it does not pay yet
        ([0, 0], 1, ScaleLimits(3, 8), 3, "limits"),  # the schedule's word, or another config
        ([900, 900], 5, ScaleLimits(1, 3), 3, "limits"),
        ([900, 900], 4, ScaleLimits(0, 0), 0, "limits"),
        ([], 0, ScaleLimits(2, 4), 2, "limits"),
        ([900, 900], 2, ScaleLimits(1, 8, 0.29), 3, "load"),
        ([900, 900], 3, ScaleLimits(1, 8, 0.29), 3, "price"),
        ([0, 0], 4, ScaleLimits(1, 8, 0.29), 3, "price"),
        ([900, 900], 2, ScaleLimits(1, 8, growth_usd_h=0.1), 3, "load"),
        ([900, 900], 2, ScaleLimits(1, 8, growth_usd_h=0.09), 2, "budget"),
        ([900, 900], 2, ScaleLimits(1, 8, growth_usd_h=-5), 2, "budget"),
        ([900, 900], 8, ScaleLimits(1, 8, growth_usd_h=-5), 8, "limits"),
        ([0, 0], 4, ScaleLimits(1, 8, growth_usd_h=-5), 4, "enough"),  # what is there stays
        ([0, 0], 1, ScaleLimits(2, 8, growth_usd_h=-5), 2, "limits"),  # nor is a minimum given up
        ([0, 0], 4, ScaleLimits(4, 8, 0.29), 3, "price"),  # a budget is not overdrawn for a minimum
    ],
)
def test_a_fleet_is_sized_by_its_load_within_limits(in_flight, present, limits, replicas, why):
    found = made(in_flight, present, limits)
    assert (found.replicas, found.why) == (replicas, why), found.reason
    assert len(found.reason) > 15


def test_a_fleet_goes_down_when_what_is_not_needed_has_cost_a_boot_and_no_further_than_was_needed_meanwhile():
    began = made([0, 0], 4)
    assert began.lull == Lull(15.0, 1)
    seen = made([250, 250], 4, lull=Lull(-100, 1))
    assert (seen.replicas, seen.lull) == (4, Lull(-100, 3))
    assert "3 are enough" in seen.reason
    assert made([0, 0], 4, lull=Lull(15 - 2999, 2)).replicas == 4
    down = made([0, 0], 4, lull=Lull(15 - 3001, 2))
    assert (down.replicas, down.why, down.lull) == (2, "idle", None)
    assert made([350, 350], 4, lull=Lull(-9e9, 1)).lull is None  # all are needed: it is over


def test_a_fleet_whose_price_is_not_known_does_not_go_down():
    assert made([0, 0], 4, lull=Lull(-9e9, 1), usd_h=0).replicas == 4


@given(
    st.lists(st.floats(0, 1e6), max_size=4),
    st.integers(0, 40),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted),
    st.none() | st.floats(0.001, 100),
    st.floats(0, 20),
    st.none() | st.builds(Lull, st.floats(-1e6, 0), st.integers(0, 40)),
)
def test_no_load_takes_a_fleet_beyond_its_limits_or_down_before_it_pays(in_flight, present, span, usd, price, lull):
    found = made(in_flight, present, ScaleLimits(*span, usd), lull, price)
    assert 0 <= found.replicas <= span[1]
    if usd is not None and price:
        assert found.replicas * price <= usd * 1.00001
    if found.replicas < span[0]:  # one more is more than may be paid
        assert usd is not None
        assert (found.replicas + 1) * price > usd
    if found.replicas < present and found.why not in ("limits", "price"):
        assert lull is not None
        assert 15.0 * (len(in_flight) - 1) - lull.since_s >= TARGET.idle_s(price)
        assert found.replicas >= max(lull.needed, *(each / 100 for each in in_flight[-2:]))
    if found.replicas > present and found.why == "load":
        assert min(in_flight[-2:]) > present * 100


@pytest.mark.parametrize("seed", [1, 2])
def test_by_default_a_day_costs_less_than_the_best_fixed_fleet_that_waits_as_little(seed):
    results = compare(SimulationSettings(seed=seed), Curve(seed=seed).rates(), 9)
    fixed = best_fixed(results)
    assert fixed is not None
    assert results[-1].usd < 0.85 * fixed.usd, verdict(results)
    assert re.fullmatch(r"ops scale costs .* \d fixed, \$\d+\.\d\d: \d\d% less\.", verdict(results))


def test_a_simulated_fleet_that_is_large_enough_waits_hardly_and_one_that_is_not_refuses():
    settings = SimulationSettings(pairs_per_s=100)
    idle, short = (simulate(settings, [rate] * 1000, FixedFleet(2)) for rate in (20, 400))
    assert (idle.refused, idle.p95_wait_s < 0.1) == (0, True)
    assert short.refused == pytest.approx(0.5, abs=0.01)
    assert short.p95_wait_s > settings.max_wait_s
    assert idle.usd == pytest.approx(2 * settings.replica_usd_h * 1000 * 15 / 3600)


def test_a_load_of_the_users_own_is_read_and_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "load.csv"
    path.write_text("time_s,pairs_per_s\n0,10\n30,20\n60,0\n")
    assert read_csv(path) == [10, 10, 20, 20]
    for text in ("0,1\nx,2\n", "5,1\n5,2\n", "0,1\n9,-2\n", "0,1\n9,nan\n", "0,1\ninf,2\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="line 2"):
            read_csv(path)
    path.write_text("0,0\n9,0\n")
    with pytest.raises(ValueError, match="every rate is 0"):
        read_csv(path)
