"""Each fault, switched on, does to a client what it is named for; switched off, all is well again."""

import time
from pathlib import Path

import pytest
import requests

from emulator.faults import CHAOS, KINDS
from harness.wait import until
from tests.emulator.client import KEY, SERVER, answers, endpoint


def put_rent(vast):
    return vast.call("PUT", f"0/asks/{vast.offer()['id']}/", SERVER)


def test_an_unknown_kind_is_refused_with_the_known_ones(vast):
    answer = vast.session.post(f"{vast.url}/_emulator/faults", json={"kind": "nonsense"}, timeout=5)
    assert answer.status_code == 400
    assert "oci_error" in answer.json()["error"]


@pytest.mark.parametrize(("kind", "rented"), [("lost_answer_before", 0), ("lost_answer_after", 1)])
def test_a_lost_answer_is_a_dropped_connection_before_or_after_the_rent(vast, kind, rented):
    vast.fault(kind, {"endpoint": "rent"}, times=1)
    with pytest.raises(requests.ConnectionError):
        put_rent(vast)
    assert len(vast.rows()) == rented
    assert vast.get_control("faults")["fired"] == {kind: 1}
    assert put_rent(vast).json()["success"]


@pytest.mark.parametrize(
    ("params", "status", "text", "headers"),
    [
        ({"kind": "http_429"}, 429, "too frequent", {}),
        ({"kind": "http_429", "form": "json", "seconds": 3}, 429, '"retry_after": 3', {}),
        ({"kind": "http_429", "form": "header", "seconds": 2}, 429, "too frequent", {"Retry-After": "2"}),
        ({"kind": "http_429", "form": "quota"}, 429, "search_quota_exceeded", {}),
        ({"kind": "http_502_html"}, 502, "<html>", {}),
        ({"kind": "http_500"}, 500, "internal error", {}),
        ({"kind": "http_error", "status": 403, "error": "spend_rate_limit"}, 403, "spend_rate_limit", {}),
        ({"kind": "auth_expired"}, 404, "Session expired", {}),
        ({"kind": "malformed_json"}, 200, '{"success": true, "instances": [', {}),
    ],
)
def test_a_bad_answer_is_given_as_often_as_asked(vast, params, status, text, headers):
    vast.control("faults", match={"endpoint": "list"}, times=1, **params)
    assert vast.call("GET", "0/users/current/").status_code == 200
    answer = vast.call("GET", "1/instances/")
    assert (answer.status_code, text in answer.text) == (status, True)
    assert headers.items() <= dict(answer.headers).items()
    assert vast.rows() == []


def test_a_hanging_call_outlasts_a_clients_patience(vast):
    vast.fault("hang", {"endpoint": "user"}, times=1, seconds=5)
    with pytest.raises(requests.Timeout):
        vast.session.get(f"{vast.url}/api/v0/users/current/", timeout=0.2)


def test_an_offer_is_taken_by_somebody_else(vast):
    ask_id = vast.offer()["id"]
    vast.fault("offer_taken", {"ask_id": ask_id}, times=1)
    assert put_rent(vast).json()["error"] == "no_such_ask"
    assert ask_id not in [one["id"] for one in vast.offers()]


@pytest.mark.parametrize(("kind", "said"), [("success_false", "try again"), ("no_credit", "insufficient_credit")])
def test_a_rent_is_refused_and_nothing_is_made(vast, kind, said):
    vast.fault(kind, times=1)
    answer = put_rent(vast).json()
    assert answer["success"] is False
    assert said in answer["msg"]
    assert vast.rows() == []


def test_a_new_instance_is_not_seen_for_some_reads_but_can_be_destroyed(vast):
    vast.fault("lag", times=1, reads=2)
    instance_id = vast.rent()
    assert vast.show(instance_id) is None
    assert vast.rows() == []
    assert vast.show(instance_id)["id"] == instance_id
    vast.fault("lag", times=1, seconds=60)
    hidden = vast.rent()
    assert vast.show(hidden) is None
    assert vast.destroy(hidden).json()["success"]


@pytest.mark.parametrize(
    ("kind", "params", "states", "said"),
    [
        ("oci_error", {}, ("created", "stopped"), ": OCI runtime create failed:"),
        ("pull_error", {}, ("loading", "running"), "manifest unknown"),
        ("pull_error", {"msg": "pull access denied"}, ("loading", "running"), "pull access denied"),
        ("exited_at_boot", {}, ("exited", "running"), "exited (1)"),
        ("app_error", {}, ("exited", "running"), "exited (1)"),
        ("offline_at_boot", {}, ("offline", "running"), ""),
    ],
)
def test_a_boot_fails_with_its_signature(vast, kind, params, states, said):
    offer = vast.offer()
    vast.fault(kind, {"machine_id": offer["machine_id"]}, **params)
    row = vast.wait(vast.rent(offer["id"]), states[0])
    row = until(lambda: now if said in (now := vast.show(row["id"]))["status_msg"] else None)
    assert row["cur_state"] == states[1]
    assert row["ports"] is None
    other = vast.offer(machine_id={"neq": offer["machine_id"]})
    assert vast.running(ask_id=other["id"])


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("unknown_flag", "unrecognized arguments"),
        ("unknown_model", "is not a valid model identifier"),
        ("out_of_memory", "CUDA out of memory"),
        ("disk_full", "No space left on device"),
    ],
)
def test_an_application_error_is_in_the_log(vast, variant, said):
    vast.fault("app_error", times=1, variant=variant)
    row = vast.wait(vast.rent(), "exited")
    assert said in vast.log(row["id"])


def test_a_stuck_pull_says_the_same_forever_and_goes_on_when_the_fault_is_lifted(vast):
    vast.fault("stuck_loading")
    row = vast.wait(vast.rent(), "loading")
    vast.control("time/advance", seconds=3600)
    again = vast.show(row["id"])
    assert (again["actual_status"], again["status_msg"]) == ("loading", "4f4fb700ef54: Pulling fs layer")
    vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5)
    assert vast.wait(row["id"])


def test_a_contract_that_stays_created_goes_on_when_the_fault_is_lifted(vast):
    vast.fault("stuck_created")
    row = vast.wait(vast.rent(), "created")
    vast.control("time/advance", seconds=3600)
    assert vast.show(row["id"])["actual_status"] == "created"
    vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5)
    assert vast.wait(row["id"])


def test_a_port_that_is_never_mapped_is_missing_from_a_running_instance(vast):
    vast.fault("port_never_mapped", times=1)
    assert vast.running()["ports"] == {}


@pytest.mark.parametrize("kind", ["port_unreachable", "never_serves", "download_stalls"])
def test_a_mapped_port_may_lead_nowhere(vast, kind):
    vast.fault(kind, times=1)
    row = vast.running()
    assert not answers(endpoint(row))
    assert vast.status(row["id"]) == "running"
    assert (kind == "download_stalls") == ("345M/1.11G" in vast.log(row["id"]))


@pytest.mark.parametrize("kind", ["exited_at_boot", "app_error"])
def test_a_boot_that_failed_costs_no_gpu(vast, kind):
    vast.fault(kind, times=1)
    offer = vast.offer()
    row = vast.wait(vast.rent(offer["id"]), "exited")
    before = vast.ledger(row["id"])["cost_usd"]
    vast.control("time/advance", seconds=3600)
    assert vast.ledger(row["id"])["cost_usd"] - before == pytest.approx(row["storage_total_cost"], rel=0.01)


def test_an_interruptible_contract_is_outbid_and_does_not_come_back(vast):
    offer = vast.offer(type="bid")
    row = vast.running(ask_id=offer["id"], price=offer["min_bid"] * 2)
    vast.fault("outbid", {"id": row["id"]}, times=1)
    stopped = vast.wait(row["id"], "stopped")
    assert (stopped["cur_state"], stopped["intended_status"]) == ("stopped", "running")
    assert offer["id"] not in [one["id"] for one in vast.offers(type="bid")]
    assert not answers(endpoint(row))


def test_a_contract_ends(vast):
    row = vast.running()
    vast.fault("end_contract", {"id": row["id"]}, times=1, seconds=600)
    until(lambda: vast.show(row["id"])["duration"] < 601)
    vast.control("time/advance", seconds=601)
    assert vast.wait(row["id"], "stopped")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_price_goes_up_when_announced_or_at_once(vast, at_once):
    row = vast.running()
    vast.fault("price_increase", {"id": row["id"]}, times=1, factor=3, at_once=at_once)
    until(lambda: vast.get_control("faults")["fired"])
    pending = vast.call("GET", "0/instances/pending-price-increases/").json()["count"]
    assert pending == (0 if at_once else 1)
    assert vast.show(row["id"])["dph_base"] == pytest.approx(row["dph_base"] * (3 if at_once else 1))


def test_a_start_is_queued_for_as_long_as_the_fault_is_on(vast):
    instance_id = vast.running()["id"]
    vast.call("PUT", f"0/instances/{instance_id}/", {"state": "stopped"})
    vast.fault("queued_start")
    assert vast.call("PUT", f"0/instances/{instance_id}/", {"state": "running"}).json()["success"] is False
    assert vast.status(instance_id) == "scheduling"
    vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5)
    assert vast.wait(instance_id)


def test_a_start_that_is_queued_on_one_machine_stays_queued_there(vast):
    row = vast.running()
    vast.call("PUT", f"0/instances/{row['id']}/", {"state": "stopped"})
    vast.fault("queued_start", {"machine_id": row["machine_id"]})
    vast.call("PUT", f"0/instances/{row['id']}/", {"state": "running"})
    held = until(lambda: fired if (fired := vast.get_control("faults")["fired"]["queued_start"]) > 3 else None)
    assert vast.status(row["id"]) == "scheduling"
    assert held


@pytest.mark.parametrize("params", [{"after_s": "soon"}, {"factor": "twice"}, {"chance": "often"}, {"seconds": None}])
def test_a_parameter_that_must_be_a_number_is_refused(vast, params):
    answer = vast.session.post(f"{vast.url}/_emulator/faults", json={"kind": "outbid", **params}, timeout=5)
    assert answer.status_code == 400
    assert vast.get_control("faults")["rules"] == []


def test_every_kind_is_exercised_here():
    text = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*faults.py"))
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []


def test_chaos_drawn_from_a_seed_is_the_same_every_time(vast):
    def draw():
        vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5)
        vast.control("chaos", seed=5, rate=0.4, kinds=["http_500", "malformed_json"])
        return [vast.call("GET", "0/users/current/").text[:9] for _ in range(20)]

    first = draw()
    assert len(set(first)) == 3
    assert draw() == first
    assert set(CHAOS) < set(KINDS)


def test_a_call_whose_client_has_left_draws_no_fault_of_anybody_elses(vast):
    def draw(pause_until=0.0):
        vast.control("chaos", seed=5, rate=0.4, kinds=["malformed_json"])
        first = [vast.call("GET", "0/users/current/").text[:9] for _ in range(10)]
        until(lambda: time.monotonic() > pause_until)
        return first + [vast.call("GET", "0/users/current/").text[:9] for _ in range(10)]

    alone = draw()
    vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5)
    vast.fault("hang", {"endpoint": "list"}, times=1, seconds=1)
    over = time.monotonic() + 1.5
    with pytest.raises(requests.Timeout):
        requests.get(f"{vast.url}/api/v1/instances/", headers={"Authorization": f"Bearer {KEY}"}, timeout=0.2)
    vast.session.delete(f"{vast.url}/_emulator/faults", timeout=5)
    assert draw(pause_until=over) == alone


def test_faults_do_not_slow_an_honest_call(vast):
    start = time.monotonic()
    for _ in range(50):
        vast.call("GET", "1/instances/")
    assert time.monotonic() - start < 5
