"""The wire, call by call: shapes, states, limits. The official client's view of the same is in test_official_cli."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from emulator.server import EmulatorServer
from harness.wait import until
from tests.emulator.client import MODEL, SERVER, Client, endpoint


def test_a_rented_machine_is_no_longer_offered_and_cannot_be_rented_again(vast):
    ask_id = vast.offer()["id"]
    vast.rent(ask_id)
    assert ask_id not in [one["id"] for one in vast.offers()]
    answer = vast.call("PUT", f"0/asks/{ask_id}/", SERVER)
    assert answer.status_code == 410
    assert answer.json() == {
        "success": False,
        "error": "no_such_ask",
        "msg": f"error 410/3907: no_such_ask Instance type {ask_id} is no longer available.",
        "ask_id": ask_id,
    }


def test_of_many_who_want_one_offer_one_gets_it(vast):
    ask_id = vast.offer()["id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: Client(vast.url).call("PUT", f"0/asks/{ask_id}/", SERVER), range(16)))
    assert sorted(one.status_code for one in answers) == [200] + [410] * 15
    assert len(vast.rows()) == 1


def test_a_rent_that_breaks_a_limit_makes_nothing(vast):
    answer = vast.call("PUT", f"0/asks/{vast.offer()['id']}/", SERVER | {"args": ["x" * 5000]})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args")
    assert vast.rows() == []


def test_a_boot_passes_through_null_and_loading_and_shows_no_address_until_it_runs(tmp_path):
    with EmulatorServer(boot_s=1.0, state_dir=tmp_path) as server:
        vast = Client(server.url)
        instance_id = vast.rent()
        seen = []

        def running():
            row = vast.show(instance_id)
            if row["actual_status"] != "running":
                assert row["ports"] is None
                assert row["public_ipaddr"] is None
            if not seen or seen[-1] != row["actual_status"]:
                seen.append(row["actual_status"])
            return row if row["actual_status"] == "running" else None

        row = until(running)
        assert [one for one in seen if one != "created"] == [None, "loading", "running"]
        assert row["public_ipaddr"].endswith("\n")
        assert row["status_msg"].startswith("success, running vllm/vllm-openai")


def test_a_running_instance_answers_at_a_port_that_is_not_the_containers(vast):
    row = vast.running()
    mapping = row["ports"]["8000/tcp"][0]
    assert mapping["HostIp"] == "0.0.0.0"
    assert mapping["HostPort"].isdigit()
    assert mapping["HostPort"] != "8000"
    body = {"model": MODEL, "query": "a b", "documents": ["c", "a b"]}
    scored = requests.post(endpoint(row) + "/rerank", json=body, timeout=5).json()
    assert [one["index"] for one in scored["results"]] == [1, 0]


def test_a_read_has_what_the_official_client_reads(vast):
    row = vast.running(env={"-p 8000:8000": "1", "A": "b c"}, label="x")
    assert row["extra_env"] == [["-p 8000:8000", "1"], ["A", "b c"]]
    assert isinstance(row["start_date"], float)
    assert (row["label"], row["image_uuid"], row["image_args"]) == ("x", SERVER["image"], ["--model", MODEL])
    assert row["dph_total"] == pytest.approx(row["dph_base"] + row["storage_total_cost"])
    assert "rented" not in row


def test_a_destroyed_instance_reads_as_null_and_a_second_destroy_is_404(vast):
    instance_id = vast.rent()
    assert vast.destroy(instance_id).json() == {"success": True}
    assert vast.call("GET", f"0/instances/{instance_id}/").json() == {"instances": None}
    again = vast.destroy(instance_id)
    assert (again.status_code, again.json()["error"]) == (404, "no_such_instance")
    assert vast.ledger(instance_id)["status"] == "destroyed"


def test_the_list_is_paged_filtered_and_counted_by_label(vast):
    offers = vast.offers(allocated_storage=40, disk_space={"gte": 40})
    ids = [vast.rent(offer["id"], label="odd" if n % 2 else "even") for n, offer in enumerate(offers[:7])]
    first = vast.call("GET", "1/instances/", limit=3).json()
    assert (first["instances_found"], first["total_instances"]) == (3, 7)
    assert first["label_counts"] == {"even": 4, "odd": 3}
    rest = vast.call("GET", "1/instances/", limit=25, after_token=first["next_token"]).json()
    assert rest["next_token"] is None
    assert [one["id"] for one in first["instances"] + rest["instances"]] == ids
    odd = vast.rows(select_filters=json.dumps({"label": {"eq": "odd"}}), select_cols=json.dumps(["id", "label"]))
    assert odd == [{"id": instance_id, "label": "odd"} for instance_id in ids[1::2]]
    down = vast.rows(order_by=json.dumps([{"col": "id", "dir": "desc"}]), limit=0)
    assert [one["id"] for one in down] == ids[::-1][:5]


def test_the_list_refuses_computed_columns_and_foreign_tokens(vast):
    answer = vast.call("GET", "1/instances/", select_filters='{"dph_total": {"lt": 1}}')
    assert answer.status_code == 400
    assert "is not a valid search key" in answer.json()["msg"]
    answer = vast.call("GET", "1/instances/", after_token="nonsense")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_token")


def test_the_old_list_is_gone(vast):
    answer = vast.call("GET", "0/instances/")
    assert (answer.status_code, answer.json()["error"]) == (410, "deprecated_endpoint")


def test_a_stopped_instance_lets_its_gpu_go_and_its_start_is_queued_until_it_is_free(vast):
    ask_id = vast.offer()["id"]
    first = vast.running(ask_id=ask_id)["id"]
    vast.call("PUT", f"0/instances/{first}/", {"state": "stopped"})
    assert vast.status(first) == "stopped"
    second = vast.rent(ask_id)
    refused = vast.call("PUT", f"0/instances/{first}/", {"state": "running"})
    assert refused.status_code == 200
    assert refused.json()["success"] is False
    assert "state change queued" in refused.json()["msg"]
    assert vast.status(first) == "scheduling"
    vast.destroy(second)
    assert vast.wait(first)["actual_status"] == "running"


def test_a_queued_start_is_cancelled_by_stopping(vast):
    ask_id = vast.offer()["id"]
    first = vast.running(ask_id=ask_id)["id"]
    vast.call("PUT", f"0/instances/{first}/", {"state": "stopped"})
    second = vast.rent(ask_id)
    vast.call("PUT", f"0/instances/{first}/", {"state": "running"})
    vast.call("PUT", f"0/instances/{first}/", {"state": "stopped"})
    vast.destroy(second)
    assert ask_id in [one["id"] for one in vast.offers()]
    assert vast.status(first) == "stopped"


def test_a_bid_below_the_floor_fails_and_leaves_a_stopped_instance(vast):
    offer = vast.offer(type="bid")
    answer = vast.call("PUT", f"0/asks/{offer['id']}/", SERVER | {"price": offer["min_bid"] * 0.9})
    assert answer.status_code == 400
    row = vast.show(answer.json()["new_contract"])
    assert (row["cur_state"], row["intended_status"], row["is_bid"]) == ("stopped", "stopped", True)


def test_a_floor_that_rises_above_the_bid_takes_the_gpu(vast):
    offer = vast.offer(type="bid")
    row = vast.running(ask_id=offer["id"], price=offer["min_bid"] * 1.1)
    assert row["dph_base"] == pytest.approx(offer["min_bid"] * 1.1)
    vast.control(f"hosts/{offer['machine_id']}/price", min_bid_usd=offer["min_bid"] * 2)
    assert vast.wait(row["id"], "stopped")["cur_state"] == "stopped"


def test_recycling_forgets_the_containers_files_and_rebooting_keeps_them(stub):
    body = {"onstart": "bash", "args": ["-c", "ls; touch mark; echo started; exec sleep 100"]}
    instance_id = stub.running(**body)["id"]
    until(lambda: "started" in stub.log(instance_id))
    stub.call("PUT", f"0/instances/reboot/{instance_id}/", {})
    stub.wait(instance_id)
    until(lambda: "mark" in stub.log(instance_id))
    stub.call("PUT", f"0/instances/recycle/{instance_id}/", {})
    stub.wait(instance_id)
    until(lambda: "bin" in stub.log(instance_id))
    assert "mark" not in stub.log(instance_id)


def test_an_update_changes_the_command_in_place(vast):
    instance_id = vast.running()["id"]
    answer = vast.call(
        "PUT", f"0/instances/update_template/{instance_id}/", {"id": instance_id, "args": "--model other/model"}
    )
    assert answer.json()["updated_instance"]["id"] == instance_id
    row = vast.wait(instance_id)
    models = requests.get(endpoint(row) + "/v1/models", timeout=5).json()
    assert models["data"][0]["id"] == "other/model"


def test_an_announced_price_is_listed_accepted_and_then_charged(vast):
    row = vast.running()
    vast.control(f"instances/{row['id']}/announce-price", factor=2)
    pending = vast.call("GET", "0/instances/pending-price-increases/").json()["pending_price_increases"]
    assert pending[0]["new_gpu_costpersec"] == pytest.approx(row["dph_base"] * 2 / 3600)
    assert vast.show(row["id"])["dph_base"] == row["dph_base"]
    accepted = {"pending_price_increase_id": pending[0]["pending_price_increase_id"]}
    assert vast.call("PUT", "0/instances/accept-price-increase/", accepted).json()["contract_id"] == row["id"]
    assert vast.show(row["id"])["dph_base"] == pytest.approx(row["dph_base"] * 2)
    again = vast.call("PUT", "0/instances/accept-price-increase/", accepted)
    assert (again.status_code, again.json()["error"]) == (404, "no_pending_price_increase")


def test_credit_drains_and_its_end_stops_everything(vast):
    row = vast.running()
    vast.control("time/advance", seconds=3600)
    spent = 25.0 - vast.call("GET", "0/users/current/").json()["credit"]
    assert row["dph_total"] <= spent < row["dph_total"] + 0.5
    assert vast.ledger(row["id"])["cost_usd"] == pytest.approx(spent, abs=1e-4)
    vast.control("credit", credit=0.01)
    vast.control("time/advance", seconds=3600)
    assert vast.wait(row["id"], "stopped")["intended_status"] == "stopped"
    refused = vast.call("PUT", f"0/asks/{vast.offer()['id']}/", SERVER)
    assert "insufficient_credit" in refused.json()["msg"]


def test_a_call_for_several_does_all_that_it_can_and_says_what_it_could_not(vast):
    several = [vast.running()["id"], vast.running()["id"]]
    answer = vast.call("PUT", "0/instances/", {"ids": [5, *several], "state": "stopped"}).json()
    assert (answer["success"], [one["id"] for one in answer["failed"]]) == (False, [5])
    assert [vast.status(one) for one in several] == ["stopped", "stopped"]
    assert vast.call("POST", "0/instances/start", {"IDs": several}).json() == {"success": True}
    assert [vast.wait(one)["cur_state"] for one in several] == ["running", "running"]
    answer = vast.call("DELETE", "0/instances/", {"instance_ids": [*several, 5]}).json()
    assert (answer["success"], answer["msg"]) == (False, "Instance 5 not found.")
    assert vast.rows() == []


def test_arguments_without_a_runtype_run_as_arguments_and_a_line_of_them_is_shown_split(vast):
    row = vast.show(vast.rent(runtype=None, args=None, args_str="--model 'a b'"))
    assert (row["image_runtype"], row["image_args"]) == ("args", ["--model", "a b"])
    assert vast.show(vast.rent(runtype=None, args=None))["image_runtype"] == "ssh"


@pytest.mark.parametrize(("runtype", "ports"), [
    ("ssh_direc ssh_proxy", {"22/tcp"}), ("ssh_proxy", set()),
    ("jupyter_direc ssh_direc ssh_proxy", {"22/tcp", "8888/tcp"}),
])  # fmt: skip
def test_direct_access_has_ports_of_its_own(vast, runtype, ports):
    assert set(vast.running(runtype=runtype, args=None, env={})["ports"]) == ports


def test_logs_need_no_body_and_those_of_another_image_do_not_speak_of_a_model(vast):
    row = vast.running(image="ubuntu", args=["sleep", "100"])
    answer = vast.session.put(f"{vast.url}/api/v0/instances/request_logs/{row['id']}/", timeout=5)
    assert requests.get(answer.json()["result_url"], timeout=5).text.strip() == ""
    assert "Application startup complete." in vast.log(vast.running()["id"])
