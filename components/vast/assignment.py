"""Assigns offers to the replicas of a fleet: each replica on its own machine, spread over hosts or countries.

Called by the Instance resource before it rents. Pure: the inputs are ranked candidates and the fleet's contracts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.vast.label import Label
from components.vast.models import Contract
from components.vast.ranking import Candidate, distinct_machines

Spread = Literal["host", "country", "none"]


@dataclass(frozen=True)
class ReplicaSlot:
    """Replica number `index` of a fleet of `of` replicas. `spread`: what the replicas are spread over."""

    index: int = 0
    of: int = 1
    spread: Spread = "host"


@dataclass(frozen=True)
class FleetState:
    """The other replicas of a fleet: their names, machines, hosts and countries."""

    names: Collection[str] = ()
    machines: Collection[int] = ()
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, contracts: Iterable[Contract], base: str, owner: str) -> FleetState:
        """Find the other replicas of the fleet of the label `base` among the account's contracts."""
        fleet = base.rpartition("/")[0]
        replicas = []
        for contract in contracts:
            label = Label.parse(contract.label)
            if label and label.owner == owner and label.base.rpartition("/")[0] == fleet and label.base != base:
                replicas.append((label.base, contract))
        return cls(
            names={name for name, _ in replicas},
            machines={contract.machine_id for _, contract in replicas},
            groups={
                "host": {str(contract.host_id) for _, contract in replicas},
                "country": {country_code(contract.geolocation) for _, contract in replicas},
            },
        )


def assign_offers(candidates: Sequence[Candidate], slot: ReplicaSlot, state: FleetState) -> list[Candidate]:
    """Return the candidates of one replica, best first. No two replicas of a fleet are assigned the same machine.
    Hosts (countries) of running replicas come one turn later. The missing replicas divide the free candidates."""
    free = [item for item in distinct_machines(candidates) if item.offer.machine_id not in state.machines]
    if slot.of <= 1:
        return free
    if slot.spread != "none":
        free = spread_by(free, state.groups.get("host", ()), lambda item: str(item.offer.host_id))
    if slot.spread == "country":
        free = spread_by(free, state.groups.get("country", ()), lambda item: country_code(item.offer.geolocation))
    missing = max(slot.of - len(state.names), 1)
    return free[slot.index % missing :: missing]


def spread_by(
    candidates: Sequence[Candidate], used_groups: Collection[str], group: Callable[[Candidate], str]
) -> list[Candidate]:
    """Return the best candidate of each group first, then the second of each group. A used group starts one turn later.
    Within a turn the order of `candidates` stays."""
    next_turns: dict[str, int] = {}
    turns = []
    for candidate in candidates:
        name = group(candidate)
        turn = next_turns.get(name, 1 if name in used_groups else 0)
        next_turns[name] = turn + 1
        turns.append((turn, candidate))
    return [candidate for _, candidate in sorted(turns, key=lambda entry: entry[0])]


def country_code(geolocation: str) -> str:
    """Return the country code of a Vast.ai location such as "Sweden, SE"."""
    return geolocation.rpartition(",")[2].strip()
