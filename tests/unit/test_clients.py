"""Clients by name: their keys follow from the stack's secret, name and generation, their bounds from the config."""

import json
from hashlib import sha256

from components.clients import DEFAULT, guard_clients, named_clients
from components.config_reading import read
from components.guard.keys import Key
from components.vast.identity import own_key

SECRET = "the-secret-of-a-stack"


def named(client_keys, secret=SECRET):
    config, problems = read({"client_keys": json.dumps(client_keys)})
    assert problems == []
    return named_clients(config.client_keys, secret)


def test_a_name_alone_is_a_key_without_bounds():
    (one,) = named({"search": None})
    assert one.entry() == Key("search", sha256(one.key.encode()).hexdigest())
    assert len(one.key) == 64
    assert one.key not in repr(one)


def test_each_name_generation_and_stack_has_another_key_and_it_stays():
    both = {"search": {}, "batch": {"generation": 2, "keep_previous": True}}
    search, batch, before = named(both)
    assert [one.name for one in (search, batch, before)] == ["search", "batch", "batch"]
    assert len({search.key, batch.key, before.key, named(both, "other")[0].key, own_key(SECRET, "0" * 16)}) == 5
    assert named({"batch": {}}) == [before]
    assert named({"search": {"pairs_per_min": 5}})[0].key == search.key


def test_bounds_are_the_guards_and_a_day_ends_a_key_at_its_beginning():
    bounds = {"expires": "2027-01-31", "requests_per_s": 2, "pairs_per_min": 60, "routes": ["/rerank"]}
    (one,) = named({"search": bounds})
    ended = Key("search", one.entry().sha256, 1801353600.0, 2.0, 60.0, ("/rerank",))
    assert one.entry() == ended
    assert named({"search": bounds | {"expires": "2027-01-31 00:00:00 +0000 UTC"}})[0].entry() == ended, (
        "as of YAML without quotes"
    )


def test_servers_are_told_all_keys_and_behind_a_gateway_names_alone():
    found = named({"search": {}, "batch": {"generation": 2, "keep_previous": True, "requests_per_s": 2}})
    told = guard_clients(found, ["now", "", "before"], direct=True)
    assert [one.name for one in told] == [DEFAULT, DEFAULT, "search", "batch", "batch"]
    behind = guard_clients(found, ["now"], direct=False)
    assert [one.entry() for one in behind] == [Key("search", ""), Key("batch", "", requests_per_s=2.0)]
