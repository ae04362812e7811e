"""Pairs/s of offers: only what was measured is a number, and the rest is an order; and the file of measurements."""

import pytest

from components import measurements
from components.errors import ConfigError
from components.plugin.session import Session
from components.vast.instance_cache import InstanceCache
from components.vast.market import Search
from components.vast.models import Offer
from components.vast.ranking import Candidate, rank
from components.vast.throughput import RELATIVE, Estimate, estimate_speeds, relative_speed, usd_per_million
from ops.plan import Choice
from ops.report import offer_table, speed
from tests.unit.scripted_api import ScriptedApi
from tests.unit.wire_samples import offer

BASE_M = 278.0
FACTS = {"dlperf": 20.0, "gpu_mem_bw": 400.0, "cpu_cores_effective": 8.0}


def an(gpu="RTX 3060", **fields):
    return Offer.parse(offer(**{"gpu_name": gpu, **FACTS, **fields}))


def test_without_a_measurement_there_is_an_order_and_no_number():
    found = estimate_speeds([an(), an(dlperf=80.0, gpu_mem_bw=1000.0)], BASE_M, {"RTX 9090": 5.0})
    assert [one.pairs_per_s for one in found] == [None, None]
    assert found[0].speed < found[1].speed
    assert {one.basis for one in found} == {RELATIVE}
    assert found[0].usd_per_million(0.1) is None
    assert str(found[0]) == "pairs/s relative, not measured"


def test_a_measured_gpu_has_its_own_rate_and_others_are_scaled_from_it():
    found = estimate_speeds([an("A"), an("B", dlperf=80.0, gpu_mem_bw=1600.0)], BASE_M, {"A": 400.0})
    assert (found[0].pairs_per_s, found[0].basis) == (pytest.approx(400), "measured on this GPU")
    share = 1 - 200 / 478
    assert (found[1].pairs_per_s, found[1].basis) == (pytest.approx(400 * 4**share), "scaled from A")
    assert found[0].usd_per_million(0.36) == pytest.approx(0.25)


def test_several_measurements_say_how_far_they_are_apart():
    found = estimate_speeds([an("A"), an("B"), an("C")], BASE_M, {"A": 100.0, "B": 150.0})
    assert [one.pairs_per_s for one in found] == pytest.approx([100, 150, 125])
    assert found[2].basis == "scaled from A, B (1.5x apart)"


def test_a_small_model_is_bound_by_the_cpu_and_a_large_one_by_the_gpu():
    def gain(parameters_m, **better):
        return relative_speed(an(**better), parameters_m) / relative_speed(an(cpu_cores_effective=1.0), parameters_m)

    weak, strong = {"cpu_cores_effective": 4.0}, {"cpu_cores_effective": 1.0, "dlperf": 80.0, "gpu_mem_bw": 1600.0}
    assert gain(22.7, **weak) > gain(22.7, **strong)
    assert gain(8000.0, **weak) < gain(8000.0, **strong)
    assert relative_speed(an(cpu_cores_effective=4.0), BASE_M) == relative_speed(an(cpu_cores_effective=64.0), BASE_M)


def test_a_server_has_one_gpu_of_an_offer_of_several():
    assert relative_speed(an(num_gpus=4, dlperf=80.0), BASE_M) == relative_speed(an(), BASE_M)


@pytest.mark.parametrize("lacks", [{"dlperf": None}, {"gpu_mem_bw": "?"}, {"cpu_cores_effective": 0}, {"num_gpus": 0}])
def test_an_offer_that_tells_too_little_has_no_speed_and_is_last(lacks):
    silent, telling = an(dph_total=0.01, **lacks), an(dph_total=5.0)
    speeds = estimate_speeds([silent, telling], BASE_M, {"RTX 3060": 100.0})
    assert (speeds[0].pairs_per_s, speeds[1].pairs_per_s) == (None, 100)
    assert str(speeds[0]).startswith("pairs/s not known: the offer lacks dlperf")
    ranked = rank([Candidate(one, 0.0, 60.0, at) for one, at in zip((silent, telling), speeds, strict=True)], "value")
    assert [one.offer.dph_total_usd for one in ranked] == [5.0, 0.01]


def test_value_takes_the_dearer_offer_where_it_answers_more_pairs_for_a_dollar():
    api = ScriptedApi()
    api.offers = [offer(1, dph_total=0.1, **FACTS), offer(2, dph_total=0.2, **{**FACTS, "dlperf": 200.0})]
    search = Search("num_gpus=1", disk_gb=40, pull_gb=12, prefer="value", model="m", parameters_m=8000)
    first = search.run(api.client())[0]
    assert first.offer.ask_id == 2
    assert "pairs_per_s" not in first.summary()
    assert str(first).endswith(", pairs/s relative, not measured")


def test_a_million_pairs_cost_what_the_hours_cost_that_they_take():
    assert usd_per_million(0.12, 1e6 / 3600) == pytest.approx(0.12)
    assert usd_per_million(None, 100) is None
    assert usd_per_million(0.12, 0) is None


def test_a_preview_shows_what_was_measured_beside_the_price_and_no_column_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    api = ScriptedApi()
    api.offers = [offer(1, dph_total=0.36, **FACTS)]
    search = Search("num_gpus=1", disk_gb=40, pull_gb=12, model="m", parameters_m=278)

    def found():
        client = api.client()
        return Session(client, InstanceCache(client)).search(search)[0]

    before = found()
    assert before.estimate is None
    assert "pairs" not in str(before) + offer_table([Choice(**shown(before))]) + speed(Choice(**shown(before)))
    measurements.record_rate("RTX 3060", "m", 400.04)
    after = found()
    assert str(after).endswith("about 400 pairs/s (measured on this GPU), $0.2500 per million pairs")
    table = offer_table([Choice(**shown(after))])
    assert "| pairs/s | $ per million pairs | basis |" in table
    assert table.endswith("| 400 | $0.2500 | measured on this GPU |")
    assert speed(Choice(**shown(after))) == "; about 400 pairs/s (measured on this GPU), $0.2500 per million"


def shown(candidate):
    return {key: one for key, one in candidate.summary().items() if key != "hosting_type"}


def test_measurements_are_kept_by_gpu_and_model_and_a_later_one_takes_the_place(tmp_path):
    path = tmp_path / "throughput.yaml"
    assert measurements.read_rates(path) == {}
    for gpu, model, rate in (("A", "m", 1.0), ("A", "n", 2.0), ("B", "m", 3.0), ("A", "m", 4.04)):
        measurements.record_rate(gpu, model, rate, path)
    assert measurements.read_rates(path) == {"A": {"m": 4.0, "n": 2.0}, "B": {"m": 3.0}}
    assert measurements.rates_of_model("m", path) == {"A": 4.0, "B": 3.0}
    assert path.read_text().startswith("# Pairs/s by GPU")


@pytest.mark.parametrize("text", ["A: 3", "A: {m: fast}", "- A", "A: {m: -1}", "A: {m: .nan}", "A: {", "\xff"])
def test_a_file_that_is_no_measurements_is_an_error_that_names_it(tmp_path, text):
    path = tmp_path / "throughput.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"throughput\.yaml: .*accepted: GPU: \{model: pairs per second\}"):
        measurements.read_rates(path)


def test_an_estimate_without_a_speed_is_no_division_by_zero():
    assert Estimate(0.0, "x", measured=True).usd_per_million(1.0) is None
