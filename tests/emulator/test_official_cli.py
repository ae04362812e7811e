"""The unmodified official CLI does its work against the emulator: what it prints, and what comes of it."""

import re

import pytest
import requests

from tests.emulator.conftest import GUIDE, MODEL, PORTS, Cli, address, until


@pytest.fixture
def instance_id(api):
    """An instance that runs."""
    made = api.rent()
    api.running(made)
    yield made
    api("DELETE", f"/api/v0/instances/{made}/", {})


def cheapest(vastai):
    return vastai.json("search", "offers", f"{GUIDE} disk_space>=60", "-o", "dph_total")[0]["id"]


def test_search_offers_prints_the_table_for_the_guides_query(vastai):
    done = vastai("search", "offers", GUIDE)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "Model" in lines[0]
    assert len(lines) > 15


def test_search_offers_in_its_newer_form_finds_the_same(vastai):
    old = vastai.json("search", "offers", GUIDE, "-o", "dph_total")
    new = vastai.json("search", "offers", GUIDE, "-o", "dph_total", "--new")
    assert [one["id"] for one in old] == [one["id"] for one in new]
    assert old == sorted(old, key=lambda one: one["dph_total"])


def test_create_instance_in_the_guides_form_ends_with_a_server(vastai, api):
    options = ["--image", "vllm/vllm-openai:latest", "--env", PORTS, "--disk", "40"]
    done = vastai("create", "instance", str(cheapest(vastai)), *options, "--args", "--model", MODEL)
    made = int(re.search(r"'new_contract': (\d+)", done.stdout)[1])
    url = address(api.running(made))
    body = {"model": MODEL, "query": "q", "documents": ["q"]}
    assert until(lambda: _answers(url, body)).json()["results"]
    assert vastai("destroy", "instance", str(made), "-y").returncode == 0


def test_create_instance_with_an_entrypoint_runs_that_and_nothing_else(vastai, api):
    script = f"echo started by bash; exec vllm serve {MODEL} --port 8000"
    options = ["--image", "vllm/vllm-openai:v0.19.1", "--env", PORTS, "--disk", "40", "--entrypoint", "bash"]
    done = vastai("create", "instance", str(cheapest(vastai)), *options, "--label", "mine", "--args", "-c", script)
    made = int(re.search(r"'new_contract': (\d+)", done.stdout)[1])
    row = api.running(made)
    assert row["label"] == "mine"
    assert row["onstart"] == "bash"
    assert "started by bash" in until(lambda: vastai("logs", str(made)).stdout)
    api("DELETE", f"/api/v0/instances/{made}/", {})


def test_show_instance_prints_it_and_a_missing_one_is_said_to_be_missing(vastai, instance_id):
    done = vastai("show", "instance", str(instance_id))
    assert done.returncode == 0
    assert str(instance_id) in done.stdout
    assert vastai.json("show", "instance", str(instance_id))["actual_status"] == "running"
    assert vastai("show", "instance", "4711").returncode == 1


def test_show_instances_lists_what_is_rented(vastai, instance_id):
    table = re.sub(r"\x1b\[[0-9;]*[mK]", "", vastai("show", "instances").stdout)
    assert str(instance_id) in table
    assert vastai("show", "instances", "-q").stdout.split() == [str(instance_id)]
    assert instance_id in [one["id"] for one in vastai.json("show", "instances")]


def test_show_user_prints_the_credit(vastai):
    assert vastai.json("show", "user")["credit"] > 0


def test_logs_prints_what_the_container_wrote(vastai, instance_id):
    assert "stub of vLLM serves" in until(lambda: vastai("logs", str(instance_id), "--tail", "50").stdout)


def test_stop_and_start_take_the_container_down_and_up_again(vastai, api, instance_id):
    assert "stopping" in vastai("stop", "instance", str(instance_id)).stdout
    assert api.instance(instance_id)["actual_status"] in ("stopped", "exited")
    assert "starting" in vastai("start", "instance", str(instance_id)).stdout
    assert api.running(instance_id)


@pytest.mark.parametrize("verb", ["reboot", "recycle"])
def test_reboot_and_recycle_start_the_container_anew(vastai, api, instance_id, verb):
    done = vastai(verb, "instance", str(instance_id))
    assert done.returncode == 0, done.stderr
    assert api.running(instance_id)


def test_label_instance_changes_the_label(vastai, api, instance_id):
    assert vastai("label", "instance", str(instance_id), "a new name").returncode == 0
    assert api.instance(instance_id)["label"] == "a new name"


def test_change_bid_changes_the_price(vastai, api):
    offer = next(one for one in api.offers(type="bid") if one["disk_space"] > 60)
    made = api.rent(offer, price=offer["min_bid"] * 1.1)
    done = vastai("change", "bid", str(made), "--price", "0.5")
    assert done.returncode == 0, done.stderr
    assert api.instance(made)["dph_base"] == 0.5
    api("DELETE", f"/api/v0/instances/{made}/", {})


def test_destroy_instance_ends_the_contract(vastai, api):
    made = api.rent()
    assert "destroying" in vastai("destroy", "instance", str(made), "-y").stdout
    assert api.instance(made) is None
    assert api.ledger()[made]["destroyed_at"]


def test_destroy_instances_ends_several(vastai, api):
    several = [api.rent(), api.rent()]
    done = vastai("destroy", "instances", *map(str, several), "-y")
    assert done.returncode == 0, done.stderr
    assert [api.instance(one) for one in several] == [None, None]


def test_a_taken_offer_is_refused_in_the_apis_words(vastai, api):
    offer = next(one for one in api.offers(num_gpus={"eq": 1}) if one["disk_space"] > 60)
    made = api.rent(offer)
    done = vastai("create", "instance", str(offer["id"]), "--image", "x:1", "--disk", "10", "--raw")
    assert "no_such_ask" in done.stdout + done.stderr
    api("DELETE", f"/api/v0/instances/{made}/", {})


def test_a_wrong_key_is_refused(market, tmp_path):
    done = Cli(market.url, tmp_path, key="wrong")("show", "instances")
    assert "Invalid user key" in done.stdout + done.stderr


def test_an_address_that_ends_in_a_slash_works(market, tmp_path):
    assert Cli(market.url + "/", tmp_path).json("show", "user")["id"]


def _answers(url, body):
    try:
        answer = requests.post(f"{url}/rerank", json=body, timeout=5)
    except requests.RequestException:
        return None
    return answer if answer.ok else None
