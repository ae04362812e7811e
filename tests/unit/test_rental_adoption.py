"""What a rental makes of answers that were lost and of instances that are there already."""

import re
from dataclasses import replace

import pytest

from components.errors import RentalFailed
from components.vast.label import Label, new_nonce
from reranker.http import Answer
from tests.unit.renting import DEAD, LABEL, READY, machine, rental, single_contract
from tests.unit.scripted_api import ScriptedApi, no_answer


@pytest.fixture
def api():
    return ScriptedApi()


def test_an_offer_taken_by_someone_else_costs_nothing(api):
    taken = Answer(410, b'{"success": false, "error": "no_such_ask", "msg": "no_such_ask"}')
    api.on_rent = lambda ask, _body: taken if ask == 1001 else None
    rented = rental(api).run()
    assert rented.contract.machine_id == machine(1)
    assert "taken" in rented.rejected[0].reason


def test_a_lost_answer_is_resolved_by_the_label_before_anything_else_is_rented(api):
    def lost(ask, body):
        api.make(ask, body)
        raise no_answer(sent=True)

    api.on_rent = lost
    rented = rental(api).run()
    assert rented.contract.machine_id == machine(0)
    assert api.calls["PUT asks"] == 1
    assert len(api.contracts) == 1


def test_a_lost_answer_that_rented_nothing_takes_the_next_offer(api):
    def lost(ask, _body):
        if ask == 1001:
            raise no_answer(sent=True)

    api.on_rent = lost
    assert rental(api).run().contract.machine_id == machine(1)
    assert len(api.contracts) == 1


def test_a_lost_answer_whose_contract_shows_up_late_leaves_nothing_extra(api):
    made = []

    def lost(ask, body):
        if ask == 1001:
            made.append(api.make(ask, body))
            raise no_answer(sent=True)

    api.on_rent = lost
    api.life = lambda machine_id, age: None if machine_id == machine(0) and age < 25 else {}
    api.offers = api.offers[:2]
    # the second machine takes a while, so the stray becomes visible before the end
    probe = lambda *_: READY if api.clock.now > 1040 else DEAD  # noqa: E731
    notes = []
    rented = rental(api, probe=probe, notes=notes).run()
    assert list(api.contracts) == [rented.contract.id]
    assert api.destroyed == made
    assert f"instance {made[0]}, of a rent call without an answer, showed up late: destroyed" in notes


def test_what_a_killed_run_left_is_not_taken_for_what_a_lost_answer_made(api):
    def lost(ask, _body):
        if ask == 1001:
            raise no_answer(sent=True)

    api.on_rent = lost
    left = api.add(str(replace(LABEL, pending=True, nonce=new_nonce())), machine_id=machine(4))
    # the list is without it until the rental has looked for what was left
    api.life = lambda machine_id, age: None if machine_id == machine(4) and age < 2 else {}
    rented = rental(api).run()
    assert (rented.contract.machine_id, api.destroyed) == (machine(1), [left])


def test_a_contract_that_came_with_a_refusal_is_destroyed(api):
    def refused(ask, body):
        if ask != 1001:
            return None
        made = api.make(ask, body)
        return Answer(
            400, f'{{"success": false, "error": "invalid_price", "msg": "too low", "new_contract": {made}}}'.encode()
        )

    api.on_rent = refused
    assert rental(api).run().contract.machine_id == machine(1)
    assert len(api.contracts) == 1


def test_a_pending_instance_of_a_killed_run_is_adopted_and_nothing_rented(api):
    its = replace(LABEL, nonce=new_nonce())
    left = api.add(str(replace(its, pending=True)), machine_id=machine(4))
    asked = []
    rented = rental(api, probe=lambda *where: asked.append(where) or READY).run()
    assert rented.adopted
    assert rented.contract.id == left
    assert api.calls["PUT asks"] == 0
    assert single_contract(api)["label"] == rented.contract.label == str(its)  # by which its own key stays known
    assert {nonce for _, _, nonce in asked} == {its.nonce}


def test_one_of_a_run_killed_just_before_that_the_list_shows_late_is_destroyed_at_the_end(api):
    late = api.add(str(replace(LABEL, pending=True)), machine_id=machine(4))
    api.life = lambda machine_id, age: None if machine_id == machine(4) and age < 2 else {}
    probe = lambda *_: READY if api.clock.now > 1003 else DEAD  # noqa: E731
    notes = []
    rented = rental(api, probe=probe, notes=notes).run()
    assert list(api.contracts) == [rented.contract.id]
    assert api.destroyed == [late]
    assert f"instance {late}, left by a killed run, showed up late: destroyed" in notes


def test_one_of_a_run_killed_just_before_goes_too_when_nothing_serves(api):
    api.add(str(replace(LABEL, pending=True)), machine_id=machine(4))
    late = lambda machine_id, age: machine_id == machine(4) and age < 2  # noqa: E731
    api.life = lambda machine_id, age: None if late(machine_id, age) else {"actual_status": "exited"}
    with pytest.raises(RentalFailed):
        rental(api, max_tries=3).run()
    assert not api.contracts


def test_an_unmarked_instance_that_no_state_knows_is_adopted_as_well(api):
    left = api.add(str(LABEL))
    assert rental(api).run().contract.id == left


def test_the_instance_being_replaced_is_not_adopted(api):
    old = api.add(str(LABEL))
    rented = rental(api, known=[old]).run()
    assert rented.contract.id != old
    assert old in api.contracts


def test_left_behind_instances_that_run_something_else_are_destroyed(api):
    other = api.add(str(Label(LABEL.base, LABEL.owner, "0ddba11", pending=True)))
    rented = rental(api).run()
    assert other in api.destroyed
    assert list(api.contracts) == [rented.contract.id]


def test_one_that_runs_something_else_and_may_be_in_the_state_is_left_to_the_end_of_the_update(api):
    replaced = api.add(str(Label(LABEL.base, LABEL.owner, "0ddba11")))
    rented = rental(api).run()
    assert set(api.contracts) == {replaced, rented.contract.id}


def test_instances_of_other_states_stacks_and_people_are_left_alone(api):
    mine = str(replace(LABEL, pending=True))
    others = [
        api.add(mine.replace("@0a1b2c3d", "@ffffffff")),
        api.add(mine.replace("/test/", "/prod/")),
        api.add("my notebook"),
        api.add(""),
    ]
    rental(api).run()
    assert set(others) < set(api.contracts)


def test_an_adopted_instance_that_never_serves_is_replaced(api):
    api.add(str(replace(LABEL, pending=True)), machine_id=machine(4), actual_status="exited")
    rented = rental(api).run()
    assert not rented.adopted
    assert len(api.contracts) == 1


def test_a_boot_that_takes_longer_than_its_estimate_says_by_how_much_and_one_without_estimate_how_long(api):
    said, until = [], 500

    def life(_machine, age):
        return {"actual_status": "loading", "status_msg": f"4f4f: Pulling {age}"} if age < until else {}

    api.life = life
    rental(api, said=said).run()
    assert [one for one in said if re.match(r"pulling 99 %, .* over the estimate, RTX", one)], said
    until = 550
    rental(api, said=said, adopt_instance_id=single_contract(api)["id"]).run()
    assert re.fullmatch(r"pulling for \d+ s, RTX \d+, instance \d+ on machine \d+", said[-1]), said
