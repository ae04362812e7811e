"""Each action of the control API on instances and hosts, by what a client of the API sees afterwards."""

import re
from pathlib import Path

import pytest
import requests

from harness.wait import until
from tests.emulator.client import IMAGE, answers, endpoint


def at_instance(vast, row, what, **body):
    return vast.control(f"instances/{row['id']}/{what}", **body)


def at_host(vast, row, what, **body):
    return vast.control(f"hosts/{row['machine_id']}/{what}", **body)


def test_a_killed_container_is_seen_as_exited_and_costs_no_gpu(vast):
    row = vast.running()
    vast.control(f"instances/{row['id']}/kill")
    assert vast.status(row["id"]) == "exited"
    assert not answers(endpoint(row))


def test_a_wedged_server_is_dead_behind_a_running_container(vast):
    row = vast.running()
    vast.control(f"instances/{row['id']}/wedge")
    assert vast.status(row["id"]) == "running"
    assert not answers(endpoint(row))


def test_a_host_that_dies_is_offline_unbilled_and_starts_anew_when_it_is_back(vast):
    row = vast.running()
    vast.control(f"hosts/{row['machine_id']}/die")
    assert vast.status(row["id"]) == "offline"
    before = vast.ledger(row["id"])["cost_usd"]
    vast.control("time/advance", seconds=36000)
    assert vast.ledger(row["id"])["cost_usd"] == pytest.approx(before, abs=1e-5)
    vast.control(f"hosts/{row['machine_id']}/revive")
    assert answers(endpoint(vast.wait(row["id"])))


def test_unreachable_hosts_are_silent_while_the_api_says_all_is_well(stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    stub.control("hosts/all/unreachable")
    with pytest.raises(requests.Timeout):
        requests.get(endpoint(row) + "/health", timeout=0.3)
    assert stub.status(row["id"]) == "running"
    stub.control("hosts/all/reachable")
    until(lambda: answers(endpoint(row)))


def test_a_server_that_starts_on_an_unreachable_host_is_silent_too(vast):
    offer = vast.offer()
    vast.control(f"hosts/{offer['machine_id']}/unreachable")
    row = vast.running(ask_id=offer["id"])
    assert not answers(endpoint(row))


@pytest.mark.parametrize(("what", "changes"), [("change-ip", "public_ipaddr"), ("change-port", "ports")])
def test_an_address_changes_and_the_old_one_is_dead(vast, what, changes):
    row = vast.running()
    vast.control(f"hosts/{row['machine_id']}/{what}")
    moved = vast.show(row["id"])
    assert moved[changes] != row[changes]
    assert answers(endpoint(moved))
    assert not answers(endpoint(row))


def test_a_stalled_host_pulls_no_further(vast):
    offer = vast.offer()
    vast.control(f"hosts/{offer['machine_id']}/stall")
    row = vast.wait(vast.rent(offer["id"]), "loading")
    vast.control("time/advance", seconds=3600)
    assert vast.status(row["id"]) == "loading"
    vast.control(f"hosts/{offer['machine_id']}/unstall")
    assert vast.wait(row["id"])


def test_reset_leaves_nothing(vast):
    vast.fault("http_500", {"endpoint": "prices"})
    vast.running()
    vast.control("credit", credit=1)
    vast.control("reset")
    assert vast.get_control("ledger") == {"contracts": [], "fired": {}}
    assert vast.get_control("faults")["rules"] == []
    assert vast.call("GET", "0/users/current/").json()["credit"] == 25.0


def test_an_instance_host_or_action_that_does_not_exist_is_refused(vast):
    for path in ("instances/1/kill", "hosts/1/die"):
        assert vast.session.post(f"{vast.url}/_emulator/{path}", json={}, timeout=5).status_code == 404
    machine = vast.offer()["machine_id"]
    assert vast.session.post(f"{vast.url}/_emulator/hosts/{machine}/explode", json={}, timeout=5).status_code == 400


def test_the_control_api_needs_no_key_and_the_hub_is_looked_up(vast):
    assert vast.get_control("health")["ok"] is True
    assert isinstance(vast.get_control("hub")["reachable"], bool)


@pytest.mark.parametrize(("intended", "shown"), [(None, "running"), ("stopped", "stopped")])
def test_an_instance_is_outbid_with_either_of_the_disputed_intentions(vast, intended, shown):
    row = vast.running()
    at_instance(vast, row, "outbid", **({"intended": intended} if intended else {}))
    after = vast.show(row["id"])
    assert (after["actual_status"], after["cur_state"], after["intended_status"]) == ("stopped", "stopped", shown)
    assert after["is_bid"]
    assert not answers(endpoint(row))
    assert row["machine_id"] not in [one["machine_id"] for one in vast.offers()]


def test_a_contract_is_ended_in_some_seconds(vast):
    row = vast.running()
    at_instance(vast, row, "end", seconds=100)
    assert vast.status(row["id"]) == "running"
    vast.control("time/advance", seconds=101)
    assert vast.wait(row["id"], "stopped")["intended_status"] == "stopped"


@pytest.mark.parametrize(("what", "charged"), [("raise-price", 3.0), ("announce-price", 1.0)])
def test_a_price_is_raised_at_once_or_only_announced(vast, what, charged):
    row = vast.running()
    at_instance(vast, row, what, factor=3)
    assert vast.show(row["id"])["dph_base"] == pytest.approx(row["dph_base"] * charged)
    before = vast.ledger(row["id"])["cost_usd"]
    vast.control("time/advance", seconds=3600)
    spent = vast.ledger(row["id"])["cost_usd"] - before
    assert spent == pytest.approx(row["dph_base"] * charged + row["storage_total_cost"], rel=0.01)
    count = vast.call("GET", "0/instances/pending-price-increases/").json()["count"]
    assert count == (0 if what == "raise-price" else 1)


def test_what_the_api_says_of_an_instance_is_set_word_for_word(vast):
    row = vast.running()
    said = {"actual_status": "unknown", "status_msg": "no heartbeat", "intended_status": "frozen"}
    at_instance(vast, row, "fields", **said)
    assert said.items() <= vast.show(row["id"]).items()


def test_image_and_args_are_changed_behind_a_clients_back(vast):
    row = vast.running()
    at_instance(vast, row, "image", image="vllm/vllm-openai:other")
    at_instance(vast, row, "args", args=["--model", "other/model"])
    changed = vast.show(row["id"])
    assert (changed["image_uuid"], changed["image_args"]) == ("vllm/vllm-openai:other", ["--model", "other/model"])
    assert row["image_uuid"] == IMAGE


def test_a_hosts_prices_are_set(vast):
    offer = vast.offer()
    at_host(vast, offer, "price", dph_usd=1.25, min_bid_usd=0.5)
    found = vast.offers(machine_id={"eq": offer["machine_id"]})[0]
    assert (found["dph_base"], found["min_bid"]) == (1.25, 0.5)


def test_servers_of_the_emulator_itself_are_silent_on_an_unreachable_host(vast):
    row = vast.running()
    at_host(vast, row, "unreachable")
    with pytest.raises(requests.Timeout):
        requests.get(endpoint(row) + "/health", timeout=0.3)
    at_host(vast, row, "reachable")
    until(lambda: answers(endpoint(row)))


def test_a_wedged_process_is_gone_behind_a_running_container(stub):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    at_instance(stub, row, "wedge")
    assert not answers(endpoint(row))
    assert stub.status(row["id"]) == "running"


@pytest.mark.parametrize("what", ["change-ip", "change-port"])
def test_a_process_moves_to_the_new_address(stub, what):
    row = stub.running()
    until(lambda: answers(endpoint(row)))
    at_host(stub, row, what)
    moved = stub.show(row["id"])
    assert endpoint(moved) != endpoint(row)
    until(lambda: answers(endpoint(moved)))
    assert not answers(endpoint(row))


def test_hosts_all_is_every_host_at_once(vast):
    row = vast.running()
    vast.control("hosts/all/die")
    assert vast.offers() == []
    assert vast.status(row["id"]) == "offline"
    vast.control("hosts/all/revive")
    assert vast.wait(row["id"])
    assert len(vast.offers()) > 15


@pytest.mark.parametrize(
    ("what", "body"), [("image", {}), ("end", {"seconds": "soon"}), ("raise-price", {"factor": None})]
)
def test_an_action_with_a_body_that_makes_no_sense_is_refused(vast, what, body):
    url = f"{vast.url}/_emulator/instances/{vast.rent()}/{what}"
    assert vast.session.post(url, json=body, timeout=5).status_code == 400


def test_every_action_is_exercised_here(vast):
    text = "".join((Path(__file__).parent / name).read_text() for name in ("test_control.py", "test_server_faults.py"))
    known = []
    for path in (f"instances/{vast.rent()}/x", "hosts/all/x"):
        error = vast.session.post(f"{vast.url}/_emulator/{path}", json={}, timeout=5).json()["error"]
        known += re.findall(r"[a-z-]+", error.partition("; known: ")[2])
    assert len(known) == 20
    assert [what for what in known if f'"{what}"' not in text and f'/{what}"' not in text] == []
