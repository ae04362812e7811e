"""The market's rules by a clock that only the test moves: states, addresses, money."""

import asyncio
from types import SimpleNamespace

import pytest

from emulator import heartbeat, hosts, shapes
from emulator.errors import ServiceError
from emulator.market import build
from emulator.runtime import Containers, RuntimeSettings
from emulator.world import CREDIT_USD, SOMEBODY_ELSE, World
from tests.emulator.client import SERVER

HOUR = 3600.0
CREATED_S, PULL_S, START_S = 10.0, 100.0, 20.0
BOOT_S = CREATED_S + PULL_S + START_S


class Days:
    """A world and the hand that moves its clock."""

    def __init__(self, folder):
        self.now = 1_800_000_000.0
        machines = build(7, now=self.now)
        self.containers = Containers(RuntimeSettings(folder=folder))
        timing = (CREATED_S, PULL_S, START_S)
        self.world = World(machines, self.containers, now=lambda: self.now, timing=lambda _machine: timing)
        self.machine = next(
            one for one in machines.values() if one.facts["inet_down_cost"] > 0 and one.facts["disk_space"] > 100
        )

    def rent(self, machine=None, **body):
        return self.world.rent((machine or self.machine).ask_id, SERVER | body)

    async def after(self, seconds):
        """Let time pass as the heartbeat sees it."""
        self.now += seconds
        await heartbeat.advance(self.world)

    async def running(self, **body):
        contract = self.rent(**body)
        await self.after(BOOT_S)
        assert contract.actual_status == "running"
        return contract

    def row(self, contract):
        return shapes.instance(contract, self.world.find_machine(contract), self.now)

    async def cost_of(self, contract, seconds):
        """What some time costs."""
        before = contract.cost_usd(self.now)
        await self.after(seconds)
        return contract.cost_usd(self.now) - before


@pytest.fixture
def days(tmp_path):
    return Days(tmp_path)


def lived(scenario):
    """Make a test of a coroutine; what listens is closed at its end."""

    def test(days):
        async def live():
            try:
                await scenario(days)
            finally:
                for contract in days.world.live_contracts():
                    await days.world.destroy(contract.id)

        asyncio.run(live())

    return test


def refused(call, *args, **named):
    with pytest.raises(ServiceError) as error:
        call(*args, **named)
    return error.value


async def refused_later(pending):
    with pytest.raises(ServiceError) as error:
        await pending
    return error.value


@lived
async def test_a_boot_goes_from_nothing_over_created_and_loading_to_running(days):
    contract = days.rent()
    seen = []
    for _ in range(int(BOOT_S) + 1):
        await days.after(1)
        if contract.actual_status not in seen:
            seen.append(contract.actual_status)
    assert seen == [None, "created", "loading", "running"]


@lived
async def test_address_and_ports_are_shown_only_while_it_runs(days):
    contract = days.rent()
    await days.after(BOOT_S / 2)
    assert (days.row(contract)["public_ipaddr"], days.row(contract)["ports"]) == (None, None)
    await days.after(BOOT_S)
    assert days.row(contract)["public_ipaddr"] == f"{days.machine.ip}\n"
    assert set(days.row(contract)["ports"]) == {"8000/tcp"}
    await days.world.stop(contract)
    assert (days.row(contract)["public_ipaddr"], days.row(contract)["ports"]) == (None, None)


@lived
async def test_a_contract_without_ports_runs_and_has_none(days):
    contract = await days.running(env={"A": "1"})
    assert days.row(contract)["ports"] == {}


@lived
async def test_several_ports_are_all_mapped_and_differ(days):
    contract = await days.running(env={f"-p {port}:{port}": "1" for port in range(8000, 8010)})
    assert sorted(contract.ports) == list(range(8000, 8010))
    assert len(set(contract.ports.values())) == 10


@lived
async def test_a_running_hour_costs_gpu_and_storage(days):
    contract = await days.running()
    hour = await days.cost_of(contract, HOUR)
    assert hour == pytest.approx(days.machine.dph_base_usd + days.machine.disk_dph(40))
    assert days.row(contract)["dph_total"] == pytest.approx(hour)


@lived
async def test_a_stopped_hour_costs_storage_only(days):
    contract = await days.running()
    await days.world.set_state(contract.id, "stopped")
    assert await days.cost_of(contract, HOUR) == pytest.approx(days.machine.disk_dph(40))


@lived
async def test_an_exited_hour_costs_storage_only(days):
    contract = await days.running()
    await days.world.kill(contract.id)
    assert await days.cost_of(contract, HOUR) == pytest.approx(days.machine.disk_dph(40))


@lived
async def test_the_image_is_pulled_once_and_again_only_when_recycled(days):
    contract = await days.running()
    await days.world.set_state(contract.id, "stopped")
    await days.world.set_state(contract.id, "running")
    await days.after(BOOT_S)
    await days.world.reboot(contract.id)
    await days.after(BOOT_S)
    assert (contract.pulls, contract.actual_status) == (1, "running")
    await days.world.reboot(contract.id, recycle=True)
    await days.after(BOOT_S)
    assert contract.pulls == 2


@lived
async def test_a_contract_that_is_rented_stopped_pulls_when_it_is_first_started(days):
    contract = days.rent(target_state="stopped")
    assert days.machine.usable()
    assert await days.cost_of(contract, HOUR) == pytest.approx(days.machine.disk_dph(40))
    await days.world.set_state(contract.id, "running")
    await days.after(CREATED_S + 1)
    assert contract.actual_status == "loading"
    await days.after(BOOT_S)
    assert (contract.actual_status, contract.pulls) == ("running", 1)


@lived
async def test_credit_that_runs_out_stops_everything_and_nothing_starts_without_it(days):
    contract = await days.running()
    days.world.credit_usd = contract.cost_usd(days.now) + 0.001
    await days.after(HOUR)
    assert days.world.remaining_credit() <= 0
    states = (contract.actual_status, contract.cur_state, contract.next_state, contract.intended_status)
    assert states == ("stopped",) * 4
    assert days.machine.usable()
    assert "insufficient_credit" in (await refused_later(days.world.set_state(contract.id, "running"))).msg
    assert "insufficient_credit" in refused(days.rent).msg


@lived
async def test_credit_that_is_added_lets_a_stopped_contract_start_and_pays_for_what_was_owed(days):
    contract = await days.running()
    days.world.credit_usd = 0.01
    await days.after(HOUR)
    owed = -days.world.remaining_credit()
    days.world.credit_usd += 5
    assert days.world.remaining_credit() == pytest.approx(5 - owed)
    await days.after(1)
    assert contract.actual_status == "stopped"
    await days.world.set_state(contract.id, "running")
    await days.after(BOOT_S)
    assert contract.actual_status == "running"


@lived
async def test_a_queued_start_waits_for_credit_too(days):
    contract = await days.running()
    await days.world.set_state(contract.id, "stopped")
    other = days.rent()
    await refused_later(days.world.set_state(contract.id, "running"))
    days.world.credit_usd = 0.0
    await days.world.destroy(other.id)
    await days.after(1)
    assert contract.actual_status == "scheduling"
    days.world.credit_usd = CREDIT_USD
    await days.after(BOOT_S)
    await days.after(BOOT_S)
    assert contract.actual_status == "running"


@lived
async def test_a_contract_stops_when_its_time_is_over_and_its_machine_is_offered_anew(days):
    contract = await days.running()
    await days.after(contract.end_date - days.now + 1)
    assert (contract.actual_status, contract.intended_status) == ("stopped", "stopped")
    offers = days.world.search({"ask_contract_id": {"eq": days.machine.ask_id}})
    assert offers[0]["duration"] > 0


@lived
async def test_a_market_kept_for_years_does_not_empty(days):
    days.now += 3 * 365 * 86400
    assert all(one["duration"] > 0 for one in days.world.search({}))
    contract = await days.running()
    assert contract.end_date > days.now


@lived
async def test_a_stop_frees_the_machine_and_a_start_after_it_was_rented_again_is_queued(days):
    contract = await days.running()
    await days.world.set_state(contract.id, "stopped")
    other = days.rent()
    error = await refused_later(days.world.set_state(contract.id, "running"))
    assert (error.status, error.body()["success"]) == (200, False)
    assert (contract.actual_status, contract.cur_state, contract.next_state) == ("scheduling", "stopped", "running")
    assert days.machine.rented_by == other.id


@lived
async def test_too_low_a_bid_fails_and_leaves_a_stopped_contract_that_has_pulled_nothing(days):
    error = refused(days.rent, price=days.machine.min_bid_usd * 0.9)
    assert error.status == 400
    contract = days.world.get_contract(error.body()["new_contract"])
    assert (contract.intended_status, contract.cur_state, contract.next_state) == ("stopped",) * 3
    assert days.machine.usable()
    assert await days.cost_of(contract, HOUR) == pytest.approx(days.machine.disk_dph(40))


@lived
async def test_a_bid_that_is_raised_above_the_floor_gets_the_gpu_back_once_it_is_free(days):
    contract = await days.running(price=days.machine.min_bid_usd * 1.1)
    days.machine.min_bid_usd *= 2
    await days.after(1)
    assert (contract.actual_status, contract.intended_status) == ("stopped", "running")
    await days.world.bid(contract.id, days.machine.min_bid_usd * 1.1)
    assert days.machine.rented_by == SOMEBODY_ELSE
    await days.after(BOOT_S)
    assert contract.actual_status == "stopped"
    days.machine.rented_by = None
    await days.after(1)
    await days.after(BOOT_S)
    assert contract.actual_status == "running"
    hour = await days.cost_of(contract, HOUR)
    assert hour == pytest.approx(contract.price_usd + days.machine.disk_dph(40))


@lived
async def test_a_stopped_contract_on_a_dead_host_is_offline_and_costs_nothing_until_the_host_is_back(days):
    contract = await days.running()
    await days.world.set_state(contract.id, "stopped")
    await hosts.set_power(days.world, days.machine, on=False)
    assert contract.actual_status == "offline"
    assert await days.cost_of(contract, HOUR) == 0
    await hosts.set_power(days.world, days.machine, on=True)
    assert contract.actual_status == "stopped"
    assert await days.cost_of(contract, HOUR) == pytest.approx(days.machine.disk_dph(40))


@lived
async def test_a_contract_that_is_stopped_while_its_host_is_dead_stays_stopped_when_the_host_is_back(days):
    contract = await days.running()
    await hosts.set_power(days.world, days.machine, on=False)
    await days.world.set_state(contract.id, "stopped")
    assert (contract.actual_status, contract.intended_status) == ("offline", "stopped")
    await hosts.set_power(days.world, days.machine, on=True)
    await days.after(BOOT_S)
    assert (contract.actual_status, contract.cur_state) == ("stopped", "stopped")
    assert await days.cost_of(contract, HOUR) == pytest.approx(days.machine.disk_dph(40))


@lived
async def test_a_start_on_a_dead_host_is_queued_until_the_host_is_back(days):
    contract = await days.running()
    await days.world.set_state(contract.id, "stopped")
    await hosts.set_power(days.world, days.machine, on=False)
    await refused_later(days.world.set_state(contract.id, "running"))
    assert contract.actual_status == "offline"
    await hosts.set_power(days.world, days.machine, on=True)
    assert contract.actual_status == "scheduling"
    await days.after(1)
    await days.after(BOOT_S)
    assert contract.actual_status == "running"


@lived
async def test_a_dead_host_offers_nothing(days):
    await hosts.set_power(days.world, days.machine, on=False)
    assert days.world.search({"ask_contract_id": {"eq": days.machine.ask_id}}) == []
    assert refused(days.rent).code == "no_such_ask"


@lived
async def test_a_second_destroy_is_told_that_there_is_no_such_instance(days):
    contract = days.rent()
    await days.world.destroy(contract.id)
    error = await refused_later(days.world.destroy(contract.id))
    assert (error.status, error.code) == (404, "no_such_instance")


@lived
async def test_what_cannot_be_moved_along_holds_up_no_other_contract(days):
    broken = days.rent()
    broken.body["args"] = 5
    other = next(one for one in days.world.machines.values() if one.usable() and one.facts["disk_space"] > 100)
    fine = days.rent(other)
    days.containers.settings.runtime = "stub"  # reads args
    fine.boot_fault = "never_serves"
    with pytest.raises(ExceptionGroup):
        await days.after(BOOT_S)
    assert fine.actual_status == "running"


@lived
async def test_a_reset_brings_back_the_first_day(days):
    first = SimpleNamespace(**vars(days.machine))
    contract = await days.running()
    days.machine.dph_base_usd, days.machine.stalled = 99.0, True
    await hosts.move(days.world, days.machine, ip=True)
    await days.world.reset()
    assert vars(days.machine) == vars(first)
    assert (days.world.contracts, days.world.remaining_credit()) == ({}, CREDIT_USD)
    assert contract.destroyed_at is not None
