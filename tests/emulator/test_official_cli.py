"""The unmodified official CLI against the emulator: by what it prints and by what then is so on the market."""

import ast

import pytest
import requests

from harness.wait import until
from tests.emulator.client import IMAGE, MODEL, answers, endpoint
from tests.emulator.official_cli import Cli

GUIDE = "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true"
PORTS = "-p 8000:8000 -e VLLM_API_KEY=abc"


def created(text):
    """The id in what `create instance` printed."""
    assert text.startswith("Started. ")
    return ast.literal_eval(text.removeprefix("Started. "))["new_contract"]


# ---- search ----------------------------------------------------------------------------------------------------------


def test_search_offers_takes_the_guides_query(vastai, stub):
    found = vastai.json("search", "offers", GUIDE, "-o", "dph_total", "--storage", "40")
    assert len(found) >= 15
    prices = [one["dph_total"] for one in found]
    assert prices == sorted(prices)
    assert all(one["gpu_ram"] >= 16000 and one["num_gpus"] == 1 and one["static_ip"] for one in found)
    assert found[0]["id"] == stub.offers(allocated_storage=40)[0]["id"]


def test_search_offers_prints_a_table(vastai, stub):
    head, *rows = vastai("search", "offers", GUIDE, "-o", "dph_total", "--limit", "3").strip().splitlines()
    assert head.split()[:5] == ["#", "ID", "CUDA", "N", "Model"]
    assert [row.split()[1] for row in rows] == [str(one["id"]) for one in stub.offers(allocated_storage=5)[:3]]


def test_search_offers_in_its_newer_form_finds_the_same(vastai, stub):
    found = vastai.json("search", "offers", GUIDE, "-o", "dph_total", "--new")
    assert [one["id"] for one in found] == [one["id"] for one in stub.offers(allocated_storage=5)]
    assert stub.get_control("requests")["requests"]["PUT /api/v0/search/asks/"] == 1


def test_search_offers_of_interruptible_machines_shows_the_floor(vastai):
    found = vastai.json("search", "offers", "num_gpus=1", "-i")
    assert all(one["is_bid"] and one["dph_base"] == one["min_bid"] for one in found)


# ---- create ----------------------------------------------------------------------------------------------------------


def test_create_instance_in_the_guides_form_ends_in_a_server_with_its_key(vastai, stub):
    offer = stub.offer()
    made = vastai(
        "create", "instance", offer["id"], "--image", "vllm/vllm-openai:latest", "--env", PORTS, "--disk", 40,
        "--args", "--model", MODEL,
    )  # fmt: skip
    row = stub.wait(created(made))
    assert (row["machine_id"], row["disk_space"], row["image_args"]) == (offer["machine_id"], 40.0, ["--model", MODEL])
    url = until(lambda: endpoint(row) if answers(endpoint(row)) else None)
    body = {"model": MODEL, "query": "What is deep learning?", "documents": ["I like pizza", "Deep learning is ML"]}
    assert requests.post(url + "/rerank", json=body, timeout=5).json()["results"][0]["index"] == 1
    assert requests.post(url + "/v1/rerank", json=body, timeout=5).status_code == 401
    with_key = requests.post(url + "/v1/rerank", json=body, headers={"Authorization": "Bearer abc"}, timeout=5)
    assert with_key.status_code == 200


def test_create_instance_with_an_entrypoint_runs_that_and_logs_shows_what_it_wrote(vastai, stub):
    script = f"echo started by bash; exec vllm serve {MODEL} --port 8000"
    made = vastai(
        "create", "instance", stub.offer()["id"], "--image", IMAGE, "--env", PORTS, "--disk", 40, "--label", "mine",
        "--entrypoint", "bash", "--args", "-c", script,
    )  # fmt: skip
    row = stub.wait(created(made))
    assert (row["label"], row["onstart"], row["image_args"]) == ("mine", "bash", ["-c", script])
    until(lambda: answers(endpoint(row)))
    said = vastai("logs", row["id"], "--tail", "50")
    assert "started by bash" in said
    assert "Application startup complete." in said


def test_create_instance_of_a_taken_offer_is_refused_in_the_apis_words(vastai, stub):
    ask_id = stub.offer()["id"]
    stub.rent(ask_id)
    assert "no_such_ask" in vastai("create", "instance", ask_id, "--image", IMAGE, "--disk", 10)
    assert len(stub.rows()) == 1


def test_create_instance_whose_answer_is_lost_is_sent_again_and_told_that_the_offer_is_gone(vastai, stub):
    stub.fault("lost_answer_after", {"endpoint": "rent"}, times=1)
    said = vastai("create", "instance", stub.offer()["id"], "--image", IMAGE, "--disk", 10)
    assert "no_such_ask" in said
    assert stub.get_control("requests")["requests"]["PUT /api/v0/asks/{id}/"] == 2
    assert len(stub.rows()) == 1


# ---- show ------------------------------------------------------------------------------------------------------------


def test_show_instance_prints_a_running_one(vastai, stub):
    row = stub.running()
    shown = vastai.json("show", "instance", row["id"])
    assert (shown["id"], shown["actual_status"], shown["ports"]) == (row["id"], "running", row["ports"])
    assert str(row["id"]) in vastai("show", "instance", row["id"])


def test_show_instance_of_one_that_is_not_there_fails(vastai):
    vastai("show", "instance", "4711", rc=1)


def test_show_instances_lists_what_is_rented(vastai, stub):
    ids = [stub.running()["id"], stub.running()["id"]]
    table = vastai("show", "instances")
    assert all(str(instance_id) in table for instance_id in ids)
    assert [one["id"] for one in vastai.json("show", "instances")] == ids


def test_show_user_prints_the_credit(vastai, stub):
    stub.control("credit", credit=12.5)
    assert vastai.json("show", "user")["credit"] == 12.5


def test_show_pending_price_increases_and_accept_price_increase_charge_what_was_announced(vastai, stub):
    row = stub.running()
    stub.control(f"instances/{row['id']}/announce-price", factor=2)
    assert str(row["id"]) in vastai("show", "pending-price-increases")
    vastai("accept", "price-increase", row["id"], "-y")
    assert stub.show(row["id"])["dph_base"] == pytest.approx(row["dph_base"] * 2)


# ---- change ----------------------------------------------------------------------------------------------------------


def test_stop_instance_ends_its_server_and_start_instance_brings_it_back(vastai, stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    assert f"stopping instance {row['id']}." in vastai("stop", "instance", row["id"])
    assert stub.status(row["id"]) == "stopped"
    assert not answers(endpoint(row))
    assert f"starting instance {row['id']}." in vastai("start", "instance", row["id"])
    again = stub.wait(row["id"])
    until(lambda: answers(endpoint(again)))


def test_stop_instances_and_start_instances_act_on_several(vastai, stub):
    several = [stub.running()["id"], stub.running()["id"]]
    vastai("stop", "instances", *several)
    assert [stub.status(one) for one in several] == ["stopped", "stopped"]
    vastai("start", "instances", *several)
    assert [stub.wait(one)["cur_state"] for one in several] == ["running", "running"]


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
    assert f"label for {instance_id} set to a new name." in vastai("label", "instance", instance_id, "a new name")
    assert [one["id"] for one in stub.rows(select_filters='{"label": {"eq": "a new name"}}')] == [instance_id]


def test_change_bid_changes_the_price(vastai, stub):
    offer = stub.offer(type="bid")
    row = stub.running(ask_id=offer["id"], price=offer["min_bid"] * 1.1)
    vastai("change", "bid", row["id"], "--price", "0.5")
    assert stub.show(row["id"])["dph_base"] == 0.5


def test_destroy_instance_ends_it_and_a_second_time_says_not_found(vastai, stub):
    row = stub.running()
    assert f"destroying instance {row['id']}." in vastai("destroy", "instance", row["id"], "-y")
    assert stub.show(row["id"]) is None
    assert stub.ledger(row["id"])["destroyed_at"]
    assert not answers(endpoint(row))
    assert "not found" in vastai("destroy", "instance", row["id"], "-y")


def test_destroy_instance_without_a_yes_destroys_nothing(vastai, stub):
    instance_id = stub.rent()
    assert "Aborted" in vastai("destroy", "instance", instance_id)
    assert stub.show(instance_id)


def test_destroy_instances_ends_several(vastai, stub):
    several = [stub.rent(), stub.rent()]
    vastai("destroy", "instances", *several, "-y")
    assert [stub.show(one) for one in several] == [None, None]


# ---- how it is pointed at the emulator -------------------------------------------------------------------------------


def test_address_and_key_may_come_from_the_environment(stub, tmp_path):
    assert Cli(stub.url, tmp_path, by_flags=False).json("show", "user")["credit"] == 25.0


def test_an_address_that_ends_in_a_slash_works(stub, tmp_path):
    row = stub.running(onstart="bash", args=["-c", "echo up; exec sleep 100"])
    until(lambda: "up" in stub.log(row["id"]))
    assert "up" in Cli(stub.url + "/", tmp_path)("logs", row["id"])


def test_a_wrong_key_is_refused(stub, tmp_path):
    stub.rent()
    said = Cli(stub.url, tmp_path, key="wrong")("show", "instances")
    assert "Invalid user key" in said
    assert "wrong" not in said


def test_a_call_that_comes_too_soon_is_repeated_after_the_time_that_the_answer_names(vastai, stub):
    stub.fault("http_429", {"path": "GET /api/v0/users/current/"}, times=1, form="header", seconds=1)
    assert vastai.json("show", "user")["id"]
    assert stub.get_control("faults")["fired"] == {"http_429": 1}
