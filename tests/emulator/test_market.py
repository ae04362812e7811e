"""The machines that are offered, and the query language that finds them."""

from emulator.filters import CAP, matches, select, sort_rows
from emulator.market import build
from tests.emulator.client import GUIDE

NOW = 1_800_000_000.0


def offers(seed=7, storage_gb=40.0, bid=False):
    return [machine.offer(now=NOW, storage_gb=storage_gb, bid=bid) for machine in build(seed, now=NOW).values()]


def test_the_same_seed_makes_the_same_market_and_another_seed_another():
    assert offers(7) == offers(7)
    assert offers(7) != offers(8)


def test_the_market_has_some_200_hosts_of_many_kinds():
    found = offers()
    assert len(found) == 200
    assert len({one["gpu_name"] for one in found}) >= 15
    assert len({one["geolocation"] for one in found}) >= 10
    assert {one["verification"] for one in found} == {"verified", "unverified"}
    assert {one["static_ip"] for one in found} == {True, False}
    assert min(one["cuda_max_good"] for one in found) < 12
    assert max(one["cuda_max_good"] for one in found) >= 13
    assert len({one["public_ipaddr"] for one in found}) == 200


def test_the_guides_query_finds_enough_to_choose_from_at_the_guides_price():
    found = select(offers(), GUIDE)
    fit = [one for one in found if one["cuda_max_good"] >= 12.9 and one["disk_space"] >= 40]
    assert len(found) >= 15
    assert len(fit) >= 10
    assert 0.06 <= min(one["dph_total"] for one in found) <= 0.12


def test_an_offer_shows_its_address_before_it_is_rented_with_a_newline_after_it():
    assert offers()[0]["public_ipaddr"] == "127.0.1.1\n"


def test_storage_is_priced_into_the_total():
    small, large = offers(storage_gb=8)[0], offers(storage_gb=80)[0]
    extra = large["storage_cost"] * 72 / 730
    assert abs(large["dph_total"] - small["dph_total"] - extra) < 1e-9
    assert large["dph_base"] == small["dph_base"]
    assert large["search"]["totalHour"] == large["dph_total"]


def test_a_bid_offer_costs_its_floor():
    one = offers(bid=True)[0]
    assert one["is_bid"]
    assert one["dph_base"] == one["min_bid"] < offers()[0]["dph_base"]


def test_numbers_in_filters_may_be_strings():
    offer = {"compute_cap": 750, "num_gpus": 1, "static_ip": True}
    assert matches(offer, {"compute_cap": {"gte": "750"}, "num_gpus": {"eq": "1"}, "static_ip": {"eq": True}})
    assert not matches(offer, {"compute_cap": {"gt": "750"}})
    assert not matches(offer, {"static_ip": {"eq": False}})


def test_every_operator_does_what_its_name_says():
    offer = {"gpu_name": "RTX 4090", "dph_total": 0.3}
    assert matches(offer, {"gpu_name": {"in": ["RTX 4090", "L4"]}, "dph_total": {"lt": 0.4, "gt": 0.2, "neq": 1}})
    assert not matches(offer, {"gpu_name": {"notin": ["RTX 4090"]}})
    assert not matches(offer, {"dph_total": {"lte": 0.29}})


def test_a_filter_on_id_matches_nothing():
    found = offers()
    assert select(found, {"id": {"eq": found[0]["id"]}}) == []
    assert len(select(found, {"ask_contract_id": {"eq": found[0]["id"]}})) == 1


def test_a_place_is_filtered_by_its_country_code():
    found = select(offers(), {"geolocation": {"in": ["SE", "NO"]}})
    assert found
    assert {one["geolocation"][-2:] for one in found} <= {"SE", "NO"}


def test_64_offers_are_the_most_that_a_search_returns():
    assert len(select(offers(), {"limit": 500})) == CAP == 64
    assert len(select(offers(), {"limit": 3})) == 3


def test_rows_are_ordered_by_the_first_pair_first():
    rows = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 0, "b": 9}]
    assert sort_rows(rows, [["a", "asc"], ["b", "desc"]]) == [rows[2], rows[1], rows[0]]


def test_an_offer_has_the_share_of_its_machines_cores_that_it_has_of_the_gpus():
    found = offers()
    assert all(one["cpu_cores_effective"] == one["cpu_cores"] * one["gpu_frac"] for one in found)
    assert {one["gpu_frac"] for one in found} == {0.25, 0.5, 1.0}
    assert all(one["num_gpus"] / one["gpu_frac"] <= 8 for one in found)


def test_a_gpus_name_may_be_written_with_underscores():
    found = select(offers(), {"gpu_name": {"in": ["RTX_4090", "L4"]}})
    assert {one["gpu_name"] for one in found} == {"RTX 4090", "L4"}


def test_a_drivers_version_may_be_written_as_it_is_shown_or_as_a_number():
    for version in ("570.00.00", 570_000_000):
        versions = {one["driver_version"] for one in select(offers(), {"driver_version": {"gte": version}})}
        assert versions
        assert all(int(one.partition(".")[0]) >= 570 for one in versions)


def test_the_systems_version_has_two_names():
    assert select(offers(), {"ubuntu_version": {"eq": "22.04"}}) == select(offers(), {"os_version": {"eq": "22.04"}})
    assert select(offers(), {"ubuntu_version": {"eq": "20.04"}}) == []
