"""Assignment: replicas get machines, hosts and countries of their own, and never the same machine."""

from itertools import pairwise

import pytest

from components.vast.assignment import FleetState, ReplicaSlot, assign_offers, spread_by
from components.vast.models import Contract, Offer
from components.vast.ranking import Candidate
from tests.unit.wire_samples import instance, offer


def candidate(machine, host, place="Sweden, SE"):
    return Candidate.of(Offer.parse(offer(machine, machine_id=machine, host_id=host, geolocation=place)), 12)


# best first: two machines of host 1, then others
MARKET = [
    candidate(10, 1),
    candidate(11, 1),
    candidate(20, 2, "Spain, ES"),
    candidate(30, 3, "Sweden, SE"),
    candidate(40, 4, "Japan, JP"),
    candidate(41, 4, "Japan, JP"),
]


def machines(found):
    return [one.offer.machine_id for one in found]


def test_a_single_replica_gets_them_all_by_rank():
    assert machines(assign_offers(MARKET, ReplicaSlot(), FleetState())) == [10, 11, 20, 30, 40, 41]


@pytest.mark.parametrize("of", [2, 3, 5])
@pytest.mark.parametrize("spread", ["host", "country", "none"])
def test_no_machine_is_assigned_twice_and_none_is_left_out(of, spread):
    assigned = [machines(assign_offers(MARKET, ReplicaSlot(index, of, spread), FleetState())) for index in range(of)]
    everything = [one for offers in assigned for one in offers]
    assert sorted(everything) == [10, 11, 20, 30, 40, 41]


def test_first_choices_are_on_different_hosts_as_long_as_there_are_hosts():
    first = [assign_offers(MARKET, ReplicaSlot(index, 4), FleetState())[0] for index in range(4)]
    assert len({one.offer.host_id for one in first}) == 4
    assert machines(first) == [10, 20, 30, 40]


def test_first_choices_are_in_different_countries_if_asked():
    first = [assign_offers(MARKET, ReplicaSlot(index, 3, "country"), FleetState())[0] for index in range(3)]
    assert machines(first) == [10, 20, 40]


def test_a_machine_of_another_replica_is_not_assigned_and_its_host_comes_last():
    contracts = [
        Contract.parse(instance(id=1, machine_id=20, host_id=2, label="p/s/reranker@0a:d1")),
        Contract.parse(instance(id=2, machine_id=99, host_id=1, label="p/s/reranker-2@0a:d1")),
        Contract.parse(instance(id=3, machine_id=30, host_id=3, label="p/other/reranker@0a:d1")),
        Contract.parse(instance(id=4, machine_id=40, host_id=4, label="p/s/reranker-9@ff:d1")),
        Contract.parse(instance(id=5, machine_id=41, host_id=4, label="my notebook")),
    ]
    fleet_state = FleetState.of(contracts, "p/s/reranker-3", "0a")
    assert set(fleet_state.names) == {"p/s/reranker", "p/s/reranker-2"}
    # two of three are up: all that is left is the third one's
    assert machines(assign_offers(MARKET, ReplicaSlot(2, 3), fleet_state)) == [30, 40, 10, 41, 11]


def test_a_replicas_own_instance_is_not_another_replicas():
    own = Contract.parse(instance(id=1, machine_id=20, host_id=2, label="p/s/reranker-3@0a:d1"))
    assert FleetState.of([own], "p/s/reranker-3", "0a") == FleetState(
        names=set(), machines=set(), groups={"host": set(), "country": set()}
    )


def test_the_order_within_a_turn_stays_by_rank():
    turns = spread_by(MARKET, (), lambda one: str(one.offer.host_id))
    ranks = {one.offer.machine_id: rank for rank, one in enumerate(MARKET)}
    firsts = [ranks[machine] for machine in machines(turns)[:4]]
    assert all(one < other for one, other in pairwise(firsts))
