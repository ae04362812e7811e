"""What ops scale reads: the load from scrapes of servers, the numbers that are allowed from the clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from components.config import Config
from components.scaling import Decision, Sample
from emulator.scoring import Load, Served, respond
from ops.load import Scrape, sample
from ops.scale import exposition
from ops.schedule import allowed

VLLM = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 7.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 12.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 12.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 1.5e+03
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="m"} 90.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.5",model_name="m"} 96.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 100.0
guard_pairs_total{key="search"} 1500
"""


def test_a_scrape_of_vllm_has_what_is_in_flight_and_answered():
    found = Scrape.parse(VLLM)
    assert (found.running, found.waiting, found.answered) == (8, 12, 1500)
    assert found.buckets == {0.3: 90, 0.5: 96, float("inf"): 100}
    assert Scrape.parse("no metrics <html>") == Scrape()


def test_the_emulators_scrape_is_read_alike():
    _, text = respond("GET", "/metrics", b"", Served(("m",)), load=Load(3, 40))
    assert Scrape.parse(text) == Scrape(3, 0, 40)


def test_a_sample_is_the_mean_of_its_reads_and_the_difference_of_its_ends():
    first = Scrape(10, 0, 100, {0.1: 50, 1.0: 100, float("inf"): 100})
    last = Scrape(20, 6, 400, {0.1: 300, 1.0: 395, float("inf"): 400})
    assert sample([first, last], 15, 60.0) == Sample(60.0, in_flight=18, queue=3, p95_s=1.0, pairs_per_s=20)
    assert sample([last, first], 15, 0.0).pairs_per_s == 0  # a server that has started anew counts from 0


def test_servers_that_do_not_answer_have_as_much_as_the_others():
    assert Scrape.total([Scrape(10, 2, 8), Scrape(20, 4, 8)], servers=3) == Scrape(45, 9, 24)


NIGHT = {"days": ["mon", "fri"], "from": "22:00", "to": "06:00", "replicas": 0}
OFFICE = {"days": ["mon"], "from": "08:00", "to": "18:00", "replicas": {"min": 2, "max": 6}}
CONFIG = Config.model_validate(
    {"replicas": {"min": 1, "max": 4}, "schedule": {"time_zone": "Europe/Oslo", "windows": [NIGHT, OFFICE]}}
)


@pytest.mark.parametrize(
    ("when", "zone", "numbers"),
    [
        ("2026-11-23 08:00", "Europe/Oslo", (2, 6)),  # a Monday
        ("2026-11-23 07:59", "Europe/Oslo", (1, 4)),
        ("2026-11-23 17:59", "UTC", (1, 4)),
        ("2026-11-23 16:59", "UTC", (2, 6)),
        ("2026-07-20 15:59", "UTC", (2, 6)),  # in summer Oslo is two hours ahead
        ("2026-07-20 16:00", "UTC", (1, 4)),
        ("2026-11-23 22:00", "Europe/Oslo", (0, 0)),
        ("2026-11-24 05:59", "Europe/Oslo", (0, 0)),  # began on Monday
        ("2026-11-24 06:00", "Europe/Oslo", (1, 4)),
        ("2026-11-24 23:00", "Europe/Oslo", (1, 4)),
        ("2026-11-23 03:00", "Europe/Oslo", (1, 4)),  # Sunday's night is none
    ],
)
def test_the_first_window_that_holds_says_what_is_allowed(when, zone, numbers):
    found = allowed(CONFIG, datetime.fromisoformat(when).replace(tzinfo=ZoneInfo(zone)))
    assert (found.min, found.max) == numbers


def test_one_number_is_the_least_and_the_most_and_the_schedules_count_for_the_whole():
    assert Config.model_validate({"replicas": "3"}).span() == (3, 3)
    assert CONFIG.span() == (0, 6)


def test_a_run_is_written_for_prometheus():
    samples = [Sample(0, 90, 9), Sample(15, 120, 40.5)]
    text = exposition("prod", Decision(3, "load", "because"), 2, samples, 1795658430.25)
    assert 'reranker_scale_replicas{stack="prod"} 3\n' in text
    assert 'reranker_scale_replicas_before{stack="prod"} 2\n' in text
    assert 'reranker_scale_pairs_in_flight{stack="prod"} 120\n' in text
    assert 'reranker_scale_pairs_queued{stack="prod"} 40.5\n' in text
    assert 'reranker_scale_last_run_timestamp_seconds{stack="prod"} 1795658430.25\n' in text
    assert [one for one in text.splitlines() if one.startswith("reranker_scale_decision") and one.endswith(" 1")] == [
        'reranker_scale_decision{stack="prod",why="load"} 1'
    ]
    assert "pairs" not in exposition("prod", Decision(0, "limits", "by the clock"), 2, [], 0)
