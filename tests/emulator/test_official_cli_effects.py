"""The unmodified official CLI against the emulator: by what it prints and by what then is so on the market.

What each command does at all is in test_official_cli.py.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.emulator.client import IMAGE, MODEL, answers, endpoint, until

GUIDE_QUERY = "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true"

COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def vastai(stub, home):
    """Runs `vastai` with a home of its own; returns what it printed. The exit code must be 0."""

    def run(*args, rc=0):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
            "VASTAI_NO_UPDATE_CHECK": "1",
            "VAST_URL": stub.url,
            "VAST_API_KEY": "emulator-key",
            "COLUMNS": "300",
        }
        program = Path(sys.executable).with_name("vastai")
        done = subprocess.run(
            [program, *map(str, args)], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == rc, done.stderr
        assert "Traceback" not in done.stderr
        return COLOURS.sub("", done.stdout + done.stderr)

    return run


def as_json(text):
    return json.loads(text)


def created(text):
    """The id in what `create instance` printed."""
    assert text.startswith("Started. ")
    return ast.literal_eval(text.removeprefix("Started. "))["new_contract"]


def test_search_offers_takes_the_guides_query(vastai, stub):
    found = as_json(vastai("search", "offers", GUIDE_QUERY, "-o", "dph_total", "--storage", "40", "--raw"))
    assert len(found) >= 15
    prices = [one["dph_total"] for one in found]
    assert prices == sorted(prices)
    assert all(one["gpu_ram"] >= 16000 and one["num_gpus"] == 1 and one["static_ip"] for one in found)
    assert found[0]["id"] == stub.offers(allocated_storage=40)[0]["id"]


def test_search_offers_prints_a_table(vastai, stub):
    text = vastai("search", "offers", GUIDE_QUERY, "-o", "dph_total", "--limit", "3")
    head, *rows = text.strip().splitlines()
    assert head.split()[:5] == ["#", "ID", "CUDA", "N", "Model"]
    assert len(rows) == 3
    assert {row.split()[1] for row in rows} == {str(one["id"]) for one in stub.offers(allocated_storage=5)[:3]}


def test_search_offers_of_interruptible_machines_shows_the_floor(vastai):
    found = as_json(vastai("search", "offers", "num_gpus=1", "-i", "--raw"))
    assert all(one["is_bid"] and one["dph_base"] == one["min_bid"] for one in found)


def test_create_instance_in_the_guides_form_ends_in_a_server(vastai, stub):
    offer = stub.offer()
    made = vastai(
        "create", "instance", offer["id"], "--image", IMAGE, "--env", "-p 8000:8000", "--disk", 40,
        "--args", "--model", MODEL,
    )  # fmt: skip
    row = stub.wait(created(made))
    assert (row["machine_id"], row["disk_space"], row["image_args"]) == (offer["machine_id"], 40.0, ["--model", MODEL])
    url = until(lambda: endpoint(row) if answers(endpoint(row)) else None)
    body = {"model": MODEL, "query": "What is deep learning?", "documents": ["I like pizza", "Deep learning is ML"]}
    assert requests.post(url + "/rerank", json=body, timeout=5).json()["results"][0]["index"] == 1


def test_stop_instance_ends_its_server_and_start_instance_brings_it_back(vastai, stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    assert f"stopping instance {row['id']}." in vastai("stop", "instance", row["id"])
    assert stub.status(row["id"]) == "stopped"
    assert not answers(endpoint(row))
    assert f"starting instance {row['id']}." in vastai("start", "instance", row["id"])
    again = stub.wait(row["id"])
    until(lambda: answers(endpoint(again)))


def test_start_instance_without_a_free_gpu_says_that_it_is_queued(vastai, stub):
    ask_id = stub.offer()["id"]
    row = stub.running(ask_id=ask_id)
    stub.call("PUT", f"0/instances/{row['id']}/", {"state": "stopped"})
    stub.rent(ask_id)
    assert "state change queued" in vastai("start", "instance", row["id"])
    assert stub.status(row["id"]) == "scheduling"


@pytest.mark.parametrize(("verb", "said"), [("reboot", "Rebooting"), ("recycle", "Recycling")])
def test_reboot_and_recycle_start_the_container_anew(vastai, stub, verb, said):
    row = stub.running(onstart="bash", args=["-c", "echo up $$; exec sleep 100"])
    first = until(lambda: log if "up" in (log := stub.log(row["id"])) else None)
    assert f"{said} instance {row['id']}." in vastai(verb, "instance", row["id"])
    stub.wait(row["id"])
    until(lambda: "up" in (log := stub.log(row["id"])) and log != first)
    assert stub.show(row["id"])["ports"] == row["ports"]


def test_label_instance_sets_the_label(vastai, stub):
    instance_id = stub.rent()
    assert f"label for {instance_id} set to mine." in vastai("label", "instance", instance_id, "mine")
    assert [one["id"] for one in stub.rows(select_filters='{"label": {"eq": "mine"}}')] == [instance_id]


def test_destroy_instance_ends_it_and_a_second_time_says_not_found(vastai, stub):
    row = stub.running()
    assert f"destroying instance {row['id']}." in vastai("destroy", "instance", row["id"], "-y")
    assert stub.show(row["id"]) is None
    assert not answers(endpoint(row))
    assert "not found" in vastai("destroy", "instance", row["id"], "-y")


def test_show_pending_price_increases_lists_what_was_announced(vastai, stub):
    row = stub.running()
    stub.control(f"instances/{row['id']}/announce-price", factor=2)
    assert str(row["id"]) in vastai("show", "pending-price-increases")
