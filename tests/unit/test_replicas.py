"""How many replicas a deploy has, by the config and by what was there before."""

import json
import re

import pytest

from components.errors import ConfigError
from components.replica_count import PAUSES_S, count_replicas, read_with_retries
from components.settings import load
from components.vllm.catalog import load_catalog

WINDOW = {"days": ["sat"], "from": "08:00", "to": "09:00", "replicas": {"min": 3, "max": 6}}
OTHERS = {"time_zone": "Europe/Oslo", "windows": [WINDOW]}


@pytest.mark.parametrize(
    ("present", "changes", "replicas"),
    [
        (None, {}, 1),
        (7, {}, 1),  # a number is what it is, whatever was there
        (None, {"replicas": 3}, 3),
        (None, {"replicas": {"min": 2, "max": 4}}, 2),
        (3, {"replicas": {"min": 2, "max": 4}}, 3),
        (9, {"replicas": {"min": 2, "max": 4}}, 4),
        (1, {"replicas": {"min": 2, "max": 4}}, 2),
        (5, {"replicas": 2, "schedule": OTHERS}, 5),  # the schedule's numbers are not taken back by a deploy
        (None, {"replicas": 2, "schedule": OTHERS}, 2),
        (0, {"replicas": {"min": 0, "max": 4}, "gateway": {"kind": "rent"}}, 0),
    ],
)
def test_a_deploy_keeps_the_present_number_of_replicas_within_what_the_config_allows(present, changes, replicas):
    raw = {key: json.dumps(value) for key, value in changes.items()}
    made = load(raw, load_catalog(), hub_reachable=lambda _url: True, present=lambda: present)
    assert made.replicas == replicas


NONE = WINDOW | {"replicas": 0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"replicas": "four"}, "replicas: is not a whole number from 0 to 256 or an object"),
        ({"replicas": {"min": 3, "max": 2}}, "replicas: min is 3 and max 2; accepted: a max of at least min"),
        (
            {"replicas": {"min": 0, "max": 2}},
            "replicas: the minimum, or that of a window of schedule, is 0, and then nothing answers",
        ),
        ({"replicas": {"max": 300}}, "replicas.max: is 300; accepted: a whole number from 0 to 256"),
        (
            {"schedule": {"time_zone": "Mars"}},
            "schedule.time_zone: is 'Mars'; accepted: a name of the time zone database",
        ),
        (
            {"schedule": {"windows": [NONE | {"from": 480}]}},
            "schedule.windows: is 480; accepted: a list of objects of days, from, to, replicas",
        ),
        (
            {"schedule": {"windows": [NONE | {"to": "24:00"}]}},
            "schedule.windows: is '24:00'; accepted: a time in quotes, such as \"08:00\"",
        ),
        ({"schedule": {"windows": [NONE]}}, "replicas: the minimum, or that of a window of schedule, is 0"),
    ],
)
def test_a_bad_number_or_schedule_is_named_with_what_is_accepted(changes, says):
    raw = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    with pytest.raises(ConfigError) as caught:
        load(raw, load_catalog(), hub_reachable=lambda _url: True)
    assert any(re.match(says, one) for one in caught.value.problems), caught.value.problems


def test_the_present_number_is_what_the_outputs_list_and_an_empty_list_is_none_running():
    assert count_replicas({}) is None
    assert count_replicas({"replicas": []}) == 0
    assert count_replicas({"replicas": [{}, {}]}) == 2


def test_a_state_that_is_being_written_is_read_again_and_one_that_stays_cut_off_is_an_error():
    answers, slept = [EOFError("checkpoint"), EOFError("checkpoint"), {"outputs": {}}], []

    def read():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert read_with_retries(read, sleep=slept.append) == {"outputs": {}}
    assert slept == [*PAUSES_S[:2]]
    answers = [EOFError("checkpoint")] * 9
    with pytest.raises(EOFError):
        read_with_retries(read, sleep=slept.append)
