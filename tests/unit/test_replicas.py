"""How many replicas a deploy has, by the config and by what was there before."""

import json

import pytest

from components.present import listed
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


def test_the_present_number_is_what_the_outputs_list_and_an_empty_list_is_none_running():
    assert listed({}) is None
    assert listed({"replicas": []}) == 0
    assert listed({"replicas": [{}, {}]}) == 2
