"""Calls that nobody means: every one that is answered, with bodies and parameters of wrong types. None breaks anything,
and no answer speaks of the language that the emulator is written in.
"""

import itertools
import json
import re

import pytest

from emulator.clock import Clock
from emulator.market import build
from emulator.routes import Api
from emulator.runtime import Containers, RuntimeSettings
from emulator.world import World
from tests.emulator.client import IMAGE

pytestmark = pytest.mark.all  # some 5000 calls
ROUTES = Api(
    World(build(7, now=0.0, hosts=1), Containers(RuntimeSettings()), now=Clock(), timing=lambda _: (0.0, 0.0, 0.0)),
    keys=set(),
    pacing=False,
    save=lambda: None,
).routes()
FIELDS = (
    "q", "order", "limit", "type", "num_gpus", "ids", "IDs", "instance_ids", "disk", "env", "args", "args_str", "label",
    "onstart", "price", "runtype", "state", "amount", "command", "ssh_key", "name", "hash_id", "id", "template_id",
    "tail", "filter", "personal_repo", "pending_price_increase_id", "extra_filters", "recommended_disk_space",
)  # fmt: skip
VALUES = (5, -1, 1e30, "x", "'", "\0", True, None, [], [None], [[1]], {}, {"eq": []}, {"about": 1})
PARAMETERS = (
    "select_filters", "select_cols", "order_by", "limit", "after_token", "latest_first", "sdate", "edate", "format",
)  # fmt: skip
PYTHON = re.compile(r"[a-z]Error|NoneType|Traceback|\bint\(|'[a-z_]+' object|unhashable|not subscriptable")


def bodies():
    yield from (b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff")
    for value in VALUES:
        yield json.dumps({"image": IMAGE} | dict.fromkeys(FIELDS, value)).encode()
    for field, value in itertools.product(("disk", "env", "args", "price", "label", "order", "q"), VALUES):
        yield json.dumps({"image": IMAGE, field: value}).encode()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.template)
def test_whatever_is_sent_is_answered_or_refused(vast, route):
    vast.emulator.post("credit", credit=1e9)
    for n, body in enumerate(bodies() if route.method != "GET" else itertools.product(PARAMETERS, VALUES)):
        instance_id = vast.rent() if "{id}" in route.path and "asks" not in route.path else None
        path = route.path.format(id=instance_id or vast.offer()["id"], key=7)
        sent = {"data": body} if route.method != "GET" else {"params": {body[0]: json.dumps(body[1])}}
        answer = vast.session.request(route.method, vast.url + path, timeout=10, **sent)
        assert answer.status_code < 500, (body, answer.text)
        assert not PYTHON.search(answer.text if answer.status_code >= 400 else ""), (body, answer.text)
        if instance_id or n % 10 == 0:
            vast.emulator.reset()
    assert vast.get_control("health")["ok"], vast.get_control("health")
