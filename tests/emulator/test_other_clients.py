"""Other people's clients, unmodified: gpuhunt's search and dstack's client of Vast.ai. They run in a venv of their own
(`scripts/setup.sh all`); the address in their code is the emulator's, by a proxy.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.emulator.client import IMAGE, KEY
from tests.emulator.vast_proxy import vast_proxy

pytestmark = pytest.mark.all
PYTHON = Path(__file__).parents[2] / ".tools" / "clients" / "bin" / "python"
GPUHUNT = """
import json, sys
from gpuhunt import QueryFilter
from gpuhunt.providers.vastai import VastAIProvider
query, community = json.loads(sys.argv[1])
found = VastAIProvider(community_cloud=community).get(QueryFilter(**query))
print(json.dumps([vars(one) for one in found], default=str))
"""
# What is asked of gpuhunt, and the same as a query of the API.
QUERIES = [
    ({}, {}),
    ({"gpu_name": ["RTX4090"]}, {"gpu_name": {"eq": "RTX 4090"}}),
    ({"gpu_name": ["A100", "H100"]}, {"gpu_name": {"in": ["A100 SXM4", "H100 SXM"]}}),
    ({"min_gpu_count": 2, "max_gpu_count": 4}, {"num_gpus": {"gte": 2, "lte": 4}}),
    ({"min_disk_size": 500}, {"disk_space": {"gte": 500}}),
    ({"max_price": 0.2}, {"dph_total": {"lte": 0.2}}),
    ({"min_compute_capability": [8, 9]}, {"compute_cap": {"gte": 890}}),
    ({"min_cpu": 64, "min_memory": 128}, {"cpu_cores": {"gte": 64}, "cpu_ram": {"gte": 128000}}),
]
DSTACK = """
import json, sys
from dstack._internal.core.backends.vastai.api_client import VastAIAPIClient, VastAICreateInstanceError
key, image, offer, bid_offer, low_bid = json.loads(sys.argv[1])
client = VastAIAPIClient(key)
found = {"good": client.auth_test(), "bad": VastAIAPIClient("wrong").auth_test(), "unknown": client.get_instance(5)}
launch = {"image_name": image, "onstart": "sleep 100", "disk_size": 10}
found["made"] = client.create_instance("mine", offer, **launch)
found["shown"] = client.get_instance(found["made"])["label"]
client.destroy_instance(found["made"])
client.destroy_instance(found["made"])
found["gone"] = client.get_instance(found["made"])
for name, args in (("taken", {"bundle_id": 5}), ("low", {"bundle_id": bid_offer, "bid": low_bid})):
    try:
        client.create_instance("other", **args, **launch)
    except VastAICreateInstanceError as error:
        found[name] = error.created_instance_id
print(json.dumps(found))
"""


@pytest.fixture
def client(vast, tmp_path):
    """Runs a program in the clients' venv, and returns what it printed."""
    assert PYTHON.exists(), "the other clients' venv is not there: scripts/setup.sh all"

    def run(program, *asked):
        with vast_proxy(vast.url, tmp_path) as environment:
            done = subprocess.run(
                [PYTHON, "-c", program, json.dumps(asked)],
                env={"PATH": os.defpath, "HOME": str(tmp_path), **environment},
                capture_output=True, text=True, timeout=100, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize(("asked", "query"), QUERIES, ids=str)
def test_gpuhunt_finds_the_offers_that_the_api_has(vast, client, asked, query):
    offers = vast.call("POST", "0/bundles/", {**query, "order": [["score", "desc"]]}).json()["offers"]
    found = client(GPUHUNT, asked, True)
    assert {one["instance_name"] for one in found} == {str(one["id"]) for one in offers}
    assert len(found) == 2 * len(offers) > 0  # on demand, and as a bid
    of = {str(one["id"]): one for one in offers}
    assert all(one["cpu"] == int(of[one["instance_name"]]["cpu_cores_effective"]) for one in found)


def test_dstack_tells_keys_apart_rents_reads_and_destroys(vast, client):
    bid = vast.offer(type="bid")
    found = client(DSTACK, KEY, IMAGE, vast.offer()["id"], bid["id"], bid["min_bid"] * 0.5)
    made, low = found.pop("made"), found.pop("low")
    assert found == {"good": True, "bad": False, "unknown": None, "shown": "mine", "gone": None, "taken": None}
    assert {one["id"]: one["status"] for one in vast.emulator.ledger()} == {made: "destroyed", low: "created"}
