import json

import pytest

from components.errors import NoOffer
from components.records import structure
from components.vast.client import Page
from components.vast.json_values import as_text
from components.vast.market import Search
from components.vast.models import Contract, Offer
from components.vast.query import Constraint
from components.vast.ranking import Candidate, distinct_machines, minutes, rank
from tests.unit.scripted_api import ScriptedApi
from tests.unit.wire_samples import instance, offer

PULL_GB = 12.0
NOW = 1_900_000_000.0


def candidates(*raw):
    return [Candidate.of(Offer.parse(one), PULL_GB) for one in raw]


def first(prefer, *raw):
    return rank(candidates(*raw), prefer)[0].offer.ask_id


def test_cheapest_counts_the_pull_and_reliability_besides_the_hourly_price():
    assert first("cheapest", offer(1, dph_total=0.10), offer(2, dph_total=0.09)) == 2
    assert first("cheapest", offer(1, dph_total=0.10), offer(2, dph_total=0.09, inet_down_cost=0.05)) == 1
    assert first("cheapest", offer(1, dph_total=0.10), offer(2, dph_total=0.095, reliability=0.80)) == 1


def test_fastest_takes_bandwidth_first_and_price_among_equals():
    assert first("fastest", offer(1, inet_down=900.0, dph_total=0.5), offer(2, inet_down=100.0)) == 1
    assert first("fastest", offer(1, inet_down=900.0, dph_total=0.5), offer(2, inet_down=899.0)) == 2


def test_balanced_pays_a_little_for_a_lot_of_time_but_not_a_lot_for_a_little():
    slow, fast = offer(1, inet_down=40.0, dph_total=0.09), offer(2, inet_down=800.0, dph_total=0.11)
    assert first("balanced", slow, fast) == 2
    assert first("balanced", offer(1, inet_down=400.0, dph_total=0.09), offer(2, inet_down=800.0, dph_total=0.2)) == 1


def test_equal_offers_are_ranked_the_same_way_every_time():
    raw = [offer(n) for n in (5, 3, 4)]
    assert [one.offer.ask_id for one in rank(candidates(*raw), "balanced")] == [3, 4, 5]


def test_a_machine_is_a_candidate_once():
    ranked = rank(candidates(offer(1, machine_id=7), offer(2, machine_id=7), offer(3)), "cheapest")
    assert [one.offer.ask_id for one in distinct_machines(ranked)] == [1, 3]


def test_a_candidate_says_what_where_how_much_and_how_soon():
    text = str(Candidate.of(Offer.parse(offer(geolocation="Sweden, SE")), PULL_GB))
    assert text == (
        "offer 1001: RTX 3060 on machine 6001, Sweden, SE, $0.0900/h, pull once $0.02, ready in about 6 min 50 s"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (200, "3 min 20 s"), (1800, "30 min"), (7500, "2 h 5 min")]
)
def test_durations_are_said_the_way_people_say_them(seconds, text):
    assert minutes(seconds) == text


def search(*constraints):
    return Search(query="num_gpus=1", constraints=constraints, pull_gb=12, disk_gb=40, prefer="cheapest")


def test_a_search_rejudges_what_the_api_let_through():
    api = ScriptedApi()
    api.offers = [offer(1, dph_total=0.05, cuda_max_good=12.1), offer(2)]
    found = search(Constraint("cuda_max_good", "gte", 12.9, "image")).run(api.client(), now=lambda: NOW)
    assert [candidate.offer.ask_id for candidate in found] == [2]
    assert api.bodies[0]["allocated_storage"] == 40.0
    assert api.bodies[0]["cuda_max_good"] == {"gte": 12.9}


def test_an_empty_search_counts_what_each_condition_removes_and_names_the_nearest_miss():
    api = ScriptedApi()
    api.offers = [offer(1, dph_total=0.071), offer(2, dph_total=0.2), offer(3, num_gpus=2, dph_total=0.04)]
    with pytest.raises(NoOffer) as caught:
        search(Constraint("dph_total", "lte", 0.05, "max_dph_usd")).run(api.client(), now=lambda: NOW)
    text = str(caught.value)
    assert "0 of 3 offers fit" in text
    assert "dph_total<=0.05 (max_dph_usd) alone removes 2 (the cheapest at $0.071/h)" in text
    assert "num_gpus=1 alone removes 1" in text
    assert "nearest miss" in text


@pytest.mark.parametrize(
    ("field", "wanted", "hint"),
    [
        ("gpu_name", ["RTX4090"], "no offer has gpu_name RTX4090; did you mean RTX 4090?"),
        ("gpu_name", ["RTX 409"], "no offer has gpu_name RTX 409; did you mean RTX 4090?"),
        ("geolocation", ["UK"], "no offer has geolocation UK; did you mean GB?"),
        ("geolocation", ["XX"], ""),
        ("gpu_name", ["RTX 4090"], ""),
    ],
)
def test_a_gpu_or_country_that_no_offer_has_is_told_with_the_one_that_is_meant(field, wanted, hint):
    api = ScriptedApi()
    api.offers = [offer(1, gpu_name="RTX 4090", geolocation="United Kingdom, GB", num_gpus=2)]
    with pytest.raises(NoOffer) as caught:
        search(Constraint(field, "in", wanted, "")).run(api.client(), now=lambda: NOW)
    assert str(caught.value).endswith(hint)
    assert ("did you mean" in str(caught.value)) == bool(hint)


def test_an_empty_market_is_said_to_be_empty():
    api = ScriptedApi()
    api.offers = []
    with pytest.raises(NoOffer, match="0 offers are on the market"):
        search().run(api.client(), now=lambda: NOW)


def test_a_contract_is_read_with_its_port_as_a_number_and_its_address_without_newline():
    contract = Contract.parse(instance())
    assert contract.public_ip == "127.0.1.9"
    assert contract.host_port(8000) == 40123
    assert Contract.parse(instance(ports={"22/tcp": None})).host_port(8000) is None
    assert Contract.parse(instance(ports=None, actual_status=None)).actual_status == ""


def test_a_search_is_the_same_whether_its_numbers_came_through_the_engine_or_as_text():
    """OfferQuery has it through the engine, which makes floats of ints, and an Instance as text: one call for both."""
    raw = {
        "query": "num_gpus=1 gpu_ram>=16",
        "constraints": [{"field": "disk_space", "op": "gte", "value": 40, "because": "disk_gb"}],
        "pull_gb": 12,
        "disk_gb": 40,
        "keep": 8,
    }
    through = {**raw, "constraints": [{**raw["constraints"][0], "value": 40.0}], "pull_gb": 12.0, "keep": 8.0}
    assert structure(Search, through).key() == structure(Search, json.loads(as_text(raw))).key()
    assert structure(Search, {**raw, "pull_gb": 13}).key() != structure(Search, raw).key()


def test_a_preference_without_a_rule_is_an_error_and_ranks_nothing():
    with pytest.raises(AssertionError, match="nicest"):
        rank(candidates(offer(1)), "nicest")
    with pytest.raises(ValueError, match="prefer: is 'nicest'"):
        structure(Search, {"query": "", "pull_gb": 12, "disk_gb": 40, "prefer": "nicest"})


class PagedMarket:
    """A client whose market is larger than a page: dearer offers come only on further pages."""

    def __init__(self, count):
        self.offers = [
            Offer.parse(offer(number, machine_id=number, dph_total=number / 1000)) for number in range(count)
        ]
        self.searches = 0

    def search(self, query):
        self.searches += 1
        floor = query.filters.get("dph_total", {}).get("gte", 0.0)
        return Page([one for one in self.offers if one.dph_total_usd >= floor][:64])


@pytest.mark.parametrize(("keep", "searches"), [(8, 1), (40, 3), (70, 4)])
def test_a_fleet_of_many_replicas_reads_as_many_pages_as_it_needs_machines_and_no_more(keep, searches):
    client = PagedMarket(150)
    wanted = Search(query="num_gpus=1", pull_gb=12, disk_gb=40, prefer="cheapest", keep=keep)
    found = wanted.run(client, now=lambda: NOW)
    assert [one.offer.ask_id for one in found] == list(range(keep))
    assert client.searches == searches


def test_why_nothing_fits_is_counted_over_further_pages():
    with pytest.raises(NoOffer, match="0 of 150 offers fit"):
        Search(query="num_gpus=8", pull_gb=12, disk_gb=40).run(NothingFits(150), now=lambda: NOW)


class NothingFits(PagedMarket):
    """Answers a query for eight GPUs with nothing, as the API does."""

    def search(self, query):
        return Page([]) if "num_gpus" in query.filters else super().search(query)
