"""What outlives the emulator: contracts, credit, faults, and containers that are kept or that died meanwhile."""

import os
import signal

import pytest

from emulator.server import EmulatorServer
from harness.wait import until
from tests.emulator.client import IMAGE, Client, answers, endpoint
from tests.emulator.launched import container_pids


def test_what_is_rented_survives_a_restart_as_after_a_power_cut(launch):
    first = launch()
    row = first.vast.running(label="mine")
    first.vast.fault("http_500", {"endpoint": "prices"})
    first.vast.control("credit", credit=7)
    first.end()
    second = launch()
    again = second.vast.wait(row["id"])
    assert (again["label"], again["ports"], again["start_date"]) == ("mine", row["ports"], row["start_date"])
    until(lambda: answers(endpoint(again)))
    assert row["machine_id"] not in [one["machine_id"] for one in second.vast.offers()]
    assert second.vast.call("GET", "0/users/current/").json()["credit"] == pytest.approx(7, abs=0.01)
    assert [one["kind"] for one in second.vast.get_control("faults")["rules"]] == ["http_500"]
    second.end()


def test_the_account_survives_a_restart(tmp_path):
    with EmulatorServer(state_dir=tmp_path) as server:
        vast = Client(server.url)
        vast.call("POST", "0/ssh/", {"ssh_key": "ssh-ed25519 AAAA"})
        vast.call("POST", "0/template/", {"name": "mine", "image": "ubuntu"})
        vast.call("PUT", f"0/instances/prepay/{vast.rent()}/", {"amount": 10})
        before = account(vast)
    with EmulatorServer(state_dir=tmp_path) as server:
        assert account(Client(server.url)) == before


def account(vast):
    """What is kept of an account: its keys, templates and payments, and what it has in advance."""
    [row] = vast.rows()
    when = '{"when": {"gte": 0, "lte": 4102444800}}'
    keys, templates = (vast.call("GET", f"0/{path}/").json() for path in ("ssh", "template"))
    paid = vast.call("GET", "1/invoices/", select_filters=when).json()
    attached = vast.call("GET", f"0/instances/{row['id']}/ssh/").json()
    return keys, templates, paid, attached, round(row["credit_balance"])


def test_kept_containers_run_on_and_are_found_again(launch):
    first = launch("--keep-containers")
    row = first.vast.running()
    until(lambda: answers(endpoint(row)))
    pids = container_pids(first.vast, row["id"])
    first.end()
    until(lambda: answers(endpoint(row)))
    second = launch()
    assert second.vast.status(row["id"]) == "running"
    assert container_pids(second.vast, row["id"]) == pids
    second.vast.destroy(row["id"])
    assert container_pids(second.vast, row["id"]) == []
    second.end()


def test_a_container_that_died_while_the_emulator_was_dead_has_exited(launch):
    first = launch()
    dead, alive = first.vast.running(), first.vast.running()
    until(lambda: answers(endpoint(alive)))
    first.end(signal.SIGKILL)
    os.kill(min(container_pids(first.vast, dead["id"])), signal.SIGKILL)
    second = launch()
    assert second.vast.status(dead["id"]) == "exited"
    assert second.vast.status(alive["id"]) == "running"
    assert answers(endpoint(alive))
    second.end()


def test_a_rent_that_was_answered_is_not_forgotten_by_a_killed_emulator(launch):
    first = launch()
    instance_id = first.vast.rent()
    first.end(signal.SIGKILL)
    second = launch()
    assert second.vast.wait(instance_id)["image_uuid"] == IMAGE
    second.end()


def test_bookkeeping_serves_on_after_a_restart_at_the_same_address(tmp_path):
    with EmulatorServer(runtime="none", state_dir=tmp_path) as server:
        row = Client(server.url).running()
    assert not answers(endpoint(row))
    with EmulatorServer(runtime="none", state_dir=tmp_path) as server:
        assert Client(server.url).status(row["id"]) == "running"
        until(lambda: answers(endpoint(row)))


def test_a_boot_that_a_restart_interrupts_goes_on(launch):
    first = launch("--boot-s", "2")
    instance_id = first.vast.rent()
    first.vast.wait(instance_id, "loading")
    first.end()
    second = launch("--boot-s", "2")
    assert second.vast.wait(instance_id)
    second.end()


def test_states_that_need_no_process_are_kept(launch):
    first = launch()
    stopped, exited, wedged, moved, offline = (first.vast.running() for _ in range(5))
    first.vast.call("PUT", f"0/instances/{stopped['id']}/", {"state": "stopped"})
    first.vast.control(f"instances/{exited['id']}/kill")
    first.vast.control(f"instances/{wedged['id']}/wedge")
    first.vast.control(f"hosts/{moved['machine_id']}/change-ip")
    first.vast.control(f"hosts/{offline['machine_id']}/die")
    first.vast.control("time/advance", seconds=3600)
    states = {one["id"]: first.vast.status(one["id"]) for one in (stopped, exited, wedged, moved, offline)}
    address = first.vast.show(moved["id"])["public_ipaddr"]
    first.end()
    second = launch()
    assert {instance_id: second.vast.status(instance_id) for instance_id in states} == states
    assert second.vast.show(moved["id"])["public_ipaddr"] == address
    assert second.vast.show(stopped["id"])["start_date"] == stopped["start_date"]
    assert second.vast.ledger(moved["id"])["cost_usd"] >= moved["dph_base"]
    second.vast.control(f"hosts/{offline['machine_id']}/revive")
    assert second.vast.wait(offline["id"])
    second.end()


def test_a_kept_container_on_an_unreachable_host_stays_silent_until_the_host_is_reachable(launch):
    first = launch("--keep-containers")
    row = first.vast.running()
    until(lambda: answers(endpoint(row)))
    first.vast.control(f"hosts/{row['machine_id']}/unreachable")
    first.end()
    second = launch()
    assert second.vast.status(row["id"]) == "running"
    assert not answers(endpoint(row))
    second.vast.control(f"hosts/{row['machine_id']}/reachable")
    until(lambda: answers(endpoint(row)))
    second.end()
