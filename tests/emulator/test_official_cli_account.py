"""The unmodified official CLI's commands about the account: ssh keys, templates, users, invoices; and the rest of those
about instances.
"""

import json

import pytest

from harness.wait import until
from tests.emulator.client import IMAGE, MODEL, answers, endpoint

pytestmark = pytest.mark.all  # a process for each command; test_official_sdk makes the same calls
KEY_TEXT = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq0 someone@example.com"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOt1 other@example.com"


@pytest.fixture
def key_id(vastai):
    vastai("create", "ssh-key", KEY_TEXT)
    return vastai.json("show", "ssh-keys")[0]["id"]


# ---- ssh keys --------------------------------------------------------------------------------------------------------


def test_create_ssh_key_and_show_ssh_keys(vastai):
    assert vastai.json("show", "ssh-keys") == []
    assert "ssh-key created {'success': True, 'key': {'id': " in vastai("create", "ssh-key", KEY_TEXT)
    assert [one["public_key"] for one in vastai.json("show", "ssh-keys")] == [KEY_TEXT]
    assert vastai.json("show", "user")["ssh_key"] == KEY_TEXT


def test_update_ssh_key_and_delete_ssh_key(vastai, key_id):
    vastai("update", "ssh-key", key_id, OTHER_KEY)
    assert [one["key"] for one in vastai.json("show", "ssh-keys")] == [OTHER_KEY]
    vastai("delete", "ssh-key", key_id)
    assert vastai.json("show", "ssh-keys") == []
    assert "No ssh key provided" in vastai("delete", "ssh-key", key_id)


def test_attach_ssh_and_detach_ssh_change_the_keys_of_one_instance(vastai, stub, key_id):
    instance_id, other = stub.rent(), stub.rent()

    def keys(one):
        return [row["public_key"] for row in json.loads(stub.call("GET", f"0/instances/{one}/ssh/").json()["ssh_keys"])]

    assert keys(instance_id) == [KEY_TEXT]
    assert "SSH key attached successfully" in vastai("attach", "ssh", instance_id, OTHER_KEY)
    assert (keys(instance_id), keys(other)) == ([KEY_TEXT, OTHER_KEY], [KEY_TEXT])
    assert "SSH key removed from instance." in vastai("detach", "ssh", instance_id, key_id)
    assert keys(instance_id) == [OTHER_KEY]


def test_ssh_url_of_an_instance_with_direct_ssh_is_its_machines_port(vastai, stub):
    made = vastai.json("create", "instance", stub.offer()["id"], "--image", IMAGE, "--disk", 10, "--ssh", "--direct")
    row = stub.wait(made["new_contract"])
    [mapping] = row["ports"]["22/tcp"]
    assert f"ssh://root@{row['public_ipaddr'].strip()}:{mapping['HostPort']}" in vastai("ssh-url", row["id"])


# ---- templates -------------------------------------------------------------------------------------------------------


def test_a_template_is_created_found_updated_and_deleted(vastai):
    made = vastai("create", "template", "--name", "mine", "--image", "vllm/vllm-openai", "--env", "-e A=b -p 8000:8000")
    assert "New Template: {'name': 'mine'" in made
    [found] = vastai.json("search", "templates", "name=mine")
    vastai("update", "template", found["hash_id"], "--name", "yours", "--image", "vllm/vllm-openai")
    [changed] = vastai.json("search", "templates", f"id={found['id']}")
    assert (changed["name"], changed["hash_id"] == found["hash_id"]) == ("yours", False)
    assert "Template deleted successfully" in vastai("delete", "template", "--template-id", found["id"])
    assert vastai.json("search", "templates") == []
    assert "404" in vastai("delete", "template", "--template-id", found["id"])


def test_an_instance_of_a_template_has_its_image_and_environment_and_what_the_call_adds(vastai, stub):
    vastai(
        "create", "template", "--name", "served", "--image", "vllm/vllm-openai", "--image_tag", "v0.19.1",
        "--env", "-e VLLM_API_KEY=abc -p 8000:8000",
    )  # fmt: skip
    [template] = vastai.json("search", "templates", "name=served")
    launch = ("create", "instance", stub.offer()["id"], "--template_hash", template["hash_id"], "--disk", 40)
    row = stub.wait(vastai.json(*launch, "--env", "-e B=c")["new_contract"])
    assert (row["image_uuid"], row["template_id"], row["template_name"]) == (IMAGE, template["id"], "served")
    assert row["extra_env"] == [["VLLM_API_KEY", "abc"], ["-p 8000:8000", "1"], ["B", "c"]]


def test_an_instance_of_a_template_that_is_not_there_is_refused(vastai, stub):
    assert "Template not found" in vastai("create", "instance", stub.offer()["id"], "--template_hash", "abc")
    assert stub.rows() == []


# ---- users and invoices ----------------------------------------------------------------------------------------------


def test_show_user_prints_a_table_and_show_subaccounts_none(vastai):
    assert "someone@example.com" in vastai("show", "user")
    assert vastai.json("show", "subaccounts") == []


def test_show_invoices_v1_lists_payments_page_by_page(vastai, stub):
    for usd in (30, 50):
        stub.control("credit", credit=usd)
    assert "Showing 3 of 3 results" in vastai("show", "invoices-v1", "--invoices")
    first = vastai.json("show", "invoices-v1", "--invoices", "--limit", 2)
    rest = vastai.json("show", "invoices-v1", "--invoices", "--limit", 2, "--next-token", first["next_token"])
    assert [round(-one["amount"]) for one in first["results"] + rest["results"]] == [25, 5, 20]
    assert rest["next_token"] is None


def test_show_invoices_v1_shows_what_an_instance_cost(vastai, stub):
    row = stub.running()
    stub.control("time/advance", seconds=3600)
    stub.destroy(row["id"])
    table = vastai("show", "invoices-v1", "--charges", "--end-date", "2099-01-01", "--start-date", "2020-01-01")
    assert str(row["id"]) in table
    [charge] = vastai.json("show", "invoices-v1", "--charges", "-s", "2020-01-01", "-e", "2099-01-01")["results"]
    assert charge["amount"] == pytest.approx(stub.ledger(row["id"])["cost_usd"], abs=1e-5)


def test_show_invoices_and_search_invoices_list_the_same_items(vastai, stub):
    stub.rent()
    stub.control("time/advance", seconds=3600)
    shown = vastai.json("show", "invoices", "--end_date", "2099-01-01", "--start_date", "2020-01-01")
    assert [one["type"] for one in shown] == [one["type"] for one in vastai.json("search", "invoices")]
    assert sorted(one["type"] for one in shown) == ["charge", "payment"]


# ---- instances -------------------------------------------------------------------------------------------------------


def test_launch_instance_rents_what_its_search_finds_first(vastai, stub):
    said = vastai(
        "launch", "instance", "-g", "RTX_3090", "-n", "1", "-i", IMAGE, "-d", "40", "-o", "dph_total",
        "--env", "-p 8000:8000", "--args", "--model", MODEL,
    )  # fmt: skip
    assert "Instance launched successfully" in said
    [row] = stub.rows()
    assert (row["gpu_name"], row["num_gpus"]) == ("RTX 3090", 1)
    until(lambda: answers(endpoint(stub.wait(row["id"]))))


def test_launch_instance_without_an_offer_rents_nothing(vastai, stub):
    assert "404 Client Error" in vastai("launch", "instance", "-g", "RTX_1", "-n", "1", "-i", IMAGE)
    assert stub.rows() == []


def test_create_instances_rents_several(vastai, stub):
    offers = [one["id"] for one in stub.offers(disk_space={"gte": 40})[:2]]
    vastai("create", "instances", *offers, "--image", IMAGE, "--disk", 10)
    assert len(stub.rows()) == 2


def test_prepay_instance_moves_credit_that_show_deposit_shows(vastai, stub):
    instance_id = stub.rent()
    assert f"of instance {instance_id} applying $10.0 credits" in vastai("prepay", "instance", instance_id, 10)
    assert json.loads(vastai("show", "deposit", instance_id))["refundable_deposit"] == pytest.approx(10, abs=0.5)
    assert vastai.json("show", "user")["credit"] < 15
    assert "Insufficient credit" in vastai("prepay", "instance", instance_id, 100)
    stub.destroy(instance_id)
    assert vastai.json("show", "user")["credit"] > 24


def test_take_snapshot_is_taken(vastai, stub):
    said = vastai("take", "snapshot", stub.rent(), "--repo", "me/mine")
    assert "Snapshot request sent successfully" in said


def test_update_instance_changes_the_image(vastai, stub):
    row = stub.running()
    vastai("update", "instance", row["id"], "--image", "vllm/vllm-openai:v0.20.0")
    assert stub.show(row["id"])["image_uuid"] == "vllm/vllm-openai:v0.20.0"


def test_change_bid_without_a_price_bids_what_wins_and_refuses_what_is_out_of_bounds(vastai, stub):
    offer = stub.offer(type="bid")
    row = stub.running(ask_id=offer["id"], price=offer["min_bid"] * 1.5)
    vastai("change", "bid", row["id"])
    assert stub.show(row["id"])["dph_base"] == offer["min_bid"]
    assert "Please set a bid price >= 0.001." in vastai("change", "bid", row["id"], "--price", "0.0001")
    assert "Please set a bid price <= 32" in vastai("change", "bid", row["id"], "--price", "100")
    assert stub.show(row["id"])["dph_base"] == offer["min_bid"]
