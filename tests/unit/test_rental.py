import re
from dataclasses import replace

import pytest

from components.errors import ApiUnreachable, DestroyFailed, Interrupted, NoOffer, RentalFailed
from components.vast.identity import own_key
from components.vast.label import parse_nonce
from components.vast.models import Offer
from components.vast.ranking import Candidate
from reranker.http import Answer
from tests.unit.renting import DEAD, DEADLINES, LABEL, READY, SILENT, SPEC, machine, rental, single_contract
from tests.unit.scripted_api import ScriptedApi, no_answer


@pytest.fixture
def api():
    return ScriptedApi()


def test_renting_returns_a_serving_contract_whose_label_no_longer_says_pending(api):
    rented = rental(api).run()
    assert (rented.contract.machine_id, rented.ip, rented.port) == (machine(0), "127.0.1.9", 40123)
    label = single_contract(api)["label"]
    assert label == rented.contract.label == str(replace(LABEL, nonce=parse_nonce(label)))
    assert not rented.adopted
    assert not rented.rejected


def test_each_machine_gets_a_key_of_its_own_and_the_probe_asks_each_with_that_one(api):
    given, asked = [], []

    def rent(ask, body):
        given.append((parse_nonce(body["label"]), body["env"]["OWN_KEY"]))

    def probe(_ip, _port, nonce):
        asked.append(nonce)
        return READY

    api.on_rent = rent
    api.life = lambda machine_id, _age: {"actual_status": "exited"} if machine_id == machine(0) else {}
    rental(api, probe=probe).run()
    (first, its_key), (second, other_key) = given
    assert its_key != other_key
    assert [its_key, other_key] == [own_key(SPEC.stack_secret, nonce) for nonce in (first, second)]
    assert asked == [second] == [parse_nonce(single_contract(api)["label"])]
    assert not any(SPEC.stack_secret in str(value) for row in api.contracts.values() for value in row.values())


def test_a_machines_own_key_is_not_in_what_its_log_is_quoted_for(api):
    def rent(_ask, body):
        api.log = f"Traceback: bad argument {body['env']['OWN_KEY']}"

    api.on_rent = rent
    api.life = lambda machine_id, _age: {"actual_status": "exited"} if machine_id == machine(0) else {}
    rented = rental(api).run()
    assert "bad argument [redacted]" in rented.rejected[0].reason


def test_bringing_up_one_machine_takes_three_calls_besides_the_polls(api):
    rental(api).run()
    assert api.calls["PUT asks"] == 1
    assert api.calls["PUT instances"] == 1  # the label
    assert api.calls["GET instances"] <= 3  # who was left behind, one look, and who showed up late


@pytest.mark.parametrize(
    ("life", "says"),
    [
        (
            {"actual_status": "created", "cur_state": "stopped", "status_msg": "OCI runtime create failed: CDI"},
            "cannot create",
        ),
        ({"actual_status": "loading", "status_msg": "Error: pull access denied for x"}, "cannot be pulled"),
        ({"actual_status": "exited", "status_msg": "exit 1"}, "exited"),
        ({"actual_status": "loading", "status_msg": "4f4f: Pulling fs layer"}, "no progress for 2 min"),
        ({"ports": {}}, "no port was mapped"),
        ({"cur_state": "stopped", "intended_status": "stopped", "next_state": "stopped"}, "was stopped"),
        ({"actual_status": "offline"}, "offline"),
    ],
)
def test_a_bad_host_is_destroyed_remembered_and_the_next_one_taken(api, life, says):
    api.life = lambda machine_id, _age: life if machine_id == machine(0) else {}
    rented = rental(api).run()
    assert rented.contract.machine_id == machine(1)
    assert [(one.machine_id, says in one.reason) for one in rented.rejected] == [(machine(0), True)]
    assert len(api.contracts) == 1


def test_a_mapped_port_that_drops_packets_is_given_up_long_before_the_serving_deadline(api):
    probe = lambda *_: SILENT if single_contract(api)["machine_id"] == machine(0) else READY  # noqa: E731
    rented = rental(api, probe=probe).run()
    assert "cannot be reached" in rented.rejected[0].reason
    assert rented.rejected[0].after_s < DEADLINES.serving_s


def test_a_server_that_never_answers_ends_at_its_deadline(api):
    probe = lambda *_: DEAD if single_contract(api)["machine_id"] == machine(0) else READY  # noqa: E731
    rented = rental(api, probe=probe).run()
    assert "does not answer as it should (refused)" in rented.rejected[0].reason


def test_progress_that_changes_is_not_a_stall(api):
    def life(_machine, age):
        return {"actual_status": "loading", "status_msg": f"layer: Downloading {age:.0f}%"} if age < 500 else {}

    api.life = life
    assert not rental(api).run().rejected


def test_when_every_candidate_fails_nothing_is_left_and_the_report_names_each(api):
    api.life = lambda _machine, _age: {"actual_status": "offline"}
    with pytest.raises(RentalFailed) as caught:
        rental(api, max_tries=3).run()
    assert not api.contracts
    for n in range(3):
        assert str(machine(n)) in str(caught.value)
    assert api.calls["PUT asks"] == 3


def test_when_the_candidates_run_out_the_market_is_searched_once_more(api):
    searched = []
    one = rental(api)
    one._queue = []
    fresh = [Candidate.of(Offer.parse(api.offers[3]), 10)]
    one.search = lambda: searched.append(1) or fresh
    assert one.run().contract.machine_id == machine(3)
    assert searched == [1]


def test_the_same_application_error_on_two_machines_is_the_specs_fault(api):
    api.life = lambda _machine, _age: {"actual_status": "exited", "status_msg": "exit 1"}
    runs = iter(("at 12:01 in /tmp/bd556b73-a497", "at 12:09 in /tmp/95e84ff1-5ae5"))

    def log(_method, path):
        if path == "/log":
            return Answer(200, f"INFO start\nValueError: something is off {next(runs)}".encode())
        return None

    api.interrupt = log
    with pytest.raises(RentalFailed, match="the same on two machines") as caught:
        rental(api).run()
    assert "next: correct the config" in str(caught.value)
    assert "widen the query" not in str(caught.value)  # which would help nothing
    assert api.calls["PUT asks"] == 2
    assert not api.contracts


def test_an_error_that_the_log_names_as_the_specs_stops_at_the_first_machine_with_the_logs_end(api):
    api.life = lambda _machine, _age: {"actual_status": "exited", "status_msg": "exit 2"}
    api.log = "started with s3cret-value-1\nvllm: error: unrecognized arguments: --frobnicate"
    with pytest.raises(RentalFailed, match="unrecognized arguments: --frobnicate") as caught:
        rental(api, spec_fault_logs=(r"unrecognized arguments: .*",)).run()
    assert api.calls["PUT asks"] == 1
    assert "s3cret-value-1" not in str(caught.value)
    assert not api.contracts


def test_a_dead_engine_makes_the_plugin_destroy_what_it_rented(api):
    asked = []

    def gone():
        asked.append(1)
        return "the engine is gone" if len(asked) > 3 else ""

    with pytest.raises(Interrupted):
        rental(api, probe=lambda *_: DEAD, stop=gone).run()
    assert not api.contracts
    assert api.destroyed


def test_after_an_interrupt_what_boots_is_destroyed_and_named_and_nothing_new_is_rented(api):
    stop = lambda: "the operation was interrupted" if api.clock.now > 1010 else ""  # noqa: E731
    with pytest.raises(Interrupted, match="interrupted: booting instances destroyed: 9001"):
        rental(api, probe=lambda *_: DEAD, stop=stop).run()
    assert (api.destroyed, api.calls["PUT asks"]) == ([9001], 1)
    assert api.clock.now < 1020


def test_an_interrupt_before_anything_is_rented_says_so(api):
    with pytest.raises(Interrupted, match="interrupted: nothing is rented"):
        rental(api, stop=lambda: "interrupted").run()
    assert api.calls["PUT asks"] == 0


def test_silence_on_two_machines_where_none_was_ever_heard_points_to_this_side_and_stops(api):
    with pytest.raises(RentalFailed, match="no rented host can be reached from here, on two machines"):
        rental(api, probe=lambda *_: SILENT).run()
    assert (api.calls["PUT asks"], api.contracts) == (2, {})


def test_silence_of_hosts_is_their_own_where_others_are_heard(api):
    def probe(*_):
        return READY if api.calls["PUT asks"] == 4 else SILENT

    rented = rental(api, probe=probe, blind=lambda: False).run()
    assert rented.contract.machine_id == machine(3)


def test_a_bug_in_the_middle_leaves_nothing_rented(api):
    def probe(*_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        rental(api, probe=probe).run()
    assert not api.contracts


def test_a_failed_destroy_names_the_id_and_the_command_that_removes_it(api):
    api.life = lambda _machine, _age: {"actual_status": "exited"}
    broken = Answer(500, b'{"msg": "database is down"}')
    api.interrupt = lambda method, _path: broken if method == "DELETE" else None
    with pytest.raises(DestroyFailed, match=r"MAY STILL BE BILLED.*vastai destroy instance 9001") as caught:
        rental(api).run()
    assert caught.value.instance_id == 9001


def test_an_api_outage_while_a_machine_boots_does_not_cost_the_machine(api):
    api.life = lambda _machine, age: {"actual_status": "loading", "status_msg": f"Pulling {age}"} if age < 200 else {}

    def outage(method, path):
        if method == "GET" and 1050 < api.clock.now < 1120:
            raise no_answer("the connection was refused", sent=False)

    api.interrupt = outage
    assert not rental(api).run().rejected
    assert len(api.contracts) == 1


def test_an_api_that_is_down_from_the_start_rents_nothing(api):
    def down(_method, _path):
        raise no_answer("the connection was refused", sent=False)

    api.interrupt = down
    with pytest.raises(ApiUnreachable):
        rental(api).run()


def test_hedging_keeps_the_first_that_serves_and_destroys_the_other(api):
    slow = machine(0)
    api.life = lambda machine_id, age: (
        {"actual_status": "loading", "status_msg": f"{age}"} if machine_id == slow else {}
    )
    rented = rental(api, hedge=2).run()
    assert rented.contract.machine_id == machine(1)
    assert len(api.contracts) == 1
    assert api.calls["PUT asks"] == 2


def test_no_two_rentals_of_one_process_take_the_same_machine(api):
    one = rental(api)
    one.claim = lambda machine_id: machine_id != machine(0)
    assert one.run().contract.machine_id == machine(1)


@pytest.mark.parametrize(
    "message", ["OCI runtime create failed: unresolvable CDI devices", "toomanyrequests: rate limit"]
)
def test_what_is_one_hosts_own_fault_never_becomes_the_specs_however_often_it_is_met(api, message):
    bad = {machine(0), machine(1), machine(2)}
    life = {"actual_status": "created", "cur_state": "stopped", "status_msg": message}
    api.life = lambda machine_id, _age: life if machine_id in bad else {}
    assert rental(api).run().contract.machine_id == machine(3)


def test_an_image_that_no_host_can_pull_is_the_specs_fault(api):
    api.life = lambda _machine, _age: {"actual_status": "loading", "status_msg": "manifest unknown"}
    with pytest.raises(RentalFailed, match="the same on two machines"):
        rental(api).run()
    assert api.calls["PUT asks"] == 2


def test_when_the_second_search_finds_nothing_the_report_still_names_what_was_tried(api):
    api.life = lambda _machine, _age: {"actual_status": "offline"}

    def nothing():
        raise NoOffer("no offer fits")

    one = rental(api, max_tries=9)
    one.search = nothing
    with pytest.raises(RentalFailed) as caught:
        one.run()
    assert str(machine(0)) in str(caught.value)
    assert not api.contracts


def test_one_failed_destroy_does_not_keep_the_others_from_being_destroyed(api):
    broken = Answer(500, b'{"msg": "database is down"}')
    stuck = []

    def interrupt(method, path):
        if method == "DELETE" and path.endswith("/9001/"):
            stuck.append(path)
            return broken
        return None

    api.interrupt = interrupt
    asked = []
    with pytest.raises(DestroyFailed, match="9001"):
        rental(
            api, hedge=2, probe=lambda *_: DEAD, stop=lambda: asked.append(1) or ("gone" if len(asked) > 4 else "")
        ).run()
    assert stuck
    assert list(api.contracts) == [9001]


def test_a_second_machine_that_cannot_be_had_does_not_cost_the_first(api):
    no_credit = Answer(400, b'{"success": false, "error": "insufficient_credit", "msg": "insufficient_credit"}')
    api.on_rent = lambda ask, _body: None if ask == 1001 else no_credit
    api.life = lambda _machine, age: {"actual_status": "loading", "status_msg": f"{age}"} if age < 60 else {}
    assert rental(api, hedge=2).run().contract.machine_id == machine(0)
    assert len(api.contracts) == 1
    assert api.calls["PUT asks"] == 2


def test_a_second_search_that_fails_does_not_cost_the_first_machine(api):
    api.life = lambda _machine, age: {"actual_status": "loading", "status_msg": f"{age}"} if age < 60 else {}
    hedged, notices = rental(api, hedge=2), []
    hedged._queue, hedged.notice = hedged._queue[:1], notices.append
    hedged.search = lambda: (_ for _ in ()).throw(ApiUnreachable("down"))
    assert hedged.run().contract.machine_id == machine(0)
    assert "no second machine is rented: down" in notices


def test_when_the_list_cannot_be_read_right_after_a_rent_the_wait_has_an_end(api):
    rented = []
    api.on_rent = lambda _ask, _body: rented.append(1)
    api.interrupt = lambda method, path: Answer(200, b"[") if rented and path == "/api/v1/instances/" else None
    with pytest.raises(RentalFailed):
        rental(api, max_tries=1).run()
    assert not api.contracts


def test_a_boot_of_a_minute_is_noticed_within_two_seconds_at_the_default_polling(api):
    """Pulling for 40 s, starting for 12 s, then a port; the server answers 4 s later."""

    def life(_machine, age):
        if age < 40:
            return {"actual_status": "loading", "status_msg": f"4f4f: Downloading {2 * age:.0f}%"}
        return {} if age >= 52 else {"actual_status": "loading", "status_msg": "starting the container"}

    began = api.clock()
    api.life = life
    rented = rental(api, probe=lambda *_: READY if api.clock() - began >= 56 else DEAD).run()
    assert rented.ready_s <= 56 + 2
    assert api.calls["GET instances"] <= 32
    assert api.calls["GET instances"] >= 5


def test_a_server_with_an_address_is_asked_every_second_and_the_list_at_the_polling_interval(api):
    asked = []

    def probe(*_):
        asked.append(api.clock())
        return READY if len(asked) > 60 else DEAD

    rental(api, probe=probe).run()
    assert asked[-1] - asked[0] == pytest.approx(60, abs=1)
    assert api.calls["GET instances"] <= 60 / 5 + 3


def test_a_long_pull_is_told_by_its_stage_first_and_every_half_minute_not_at_every_percent(api):
    said = []

    def life(_machine, age):
        return {"actual_status": "loading", "status_msg": f"4f4f: Downloading {age:.0f}%"} if age < 100 else {}

    api.life = life
    rental(api, said=said).run()
    pulling = [line for line in said if line.startswith("pulling ")]
    assert 3 <= len(pulling) <= 5, said
    row = r"pulling (\d+) %, \d+ min.* left, RTX \d+, instance \d+ on machine \d+"
    percents = [int(re.fullmatch(row, line)[1]) for line in pulling]
    assert percents == sorted(percents), "of the whole, where the host tells that of one layer after the other"


STALLED = "model.safetensors:  31%|###1      | 345M/1.11G [00:12<00:26, 28.9MB/s]"


def test_a_download_that_stands_still_is_named_as_such_before_the_servers_deadline(api):
    api.log, began = f"INFO loading\n{STALLED}", api.clock.now
    with pytest.raises(RentalFailed, match="the same on two machines") as caught:
        rental(api, probe=lambda *_: DEAD).run()
    assert f"the download of the model stands still for 2 min: {STALLED}" in str(caught.value)
    assert "HF_HUB_DISABLE_XET" in str(caught.value)
    assert (api.calls["PUT asks"], api.contracts) == (2, {})
    assert api.clock.now - began < 2 * DEADLINES.serving_s


def test_a_download_that_goes_on_and_a_log_of_something_else_have_the_servers_deadline(api):
    for words in ("INFO compiling", "model.safetensors: {0}%|"):
        moved = iter(range(9999))

        def log(_method, path, words=words, moved=moved):
            return Answer(200, words.format(next(moved)).encode()) if path == "/log" else None

        api.interrupt = log
        with pytest.raises(RentalFailed, match=r"over its deadline of 5 min") as caught:
            rental(api, probe=lambda *_: DEAD).run()
        assert "stands still" not in str(caught.value)
