"""Which replica of a fleet takes which offer: machines of their own, hosts or countries apart, no race for one offer.

Called by the Instance resource before it rents. Pure: ranked candidates and what the fleet has already go in.
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
    """One replica's place in its fleet: number `index` of `of`, and what is spread."""

    index: int = 0
    of: int = 1
    spread: Spread = "host"


@dataclass(frozen=True)
class FleetState:
    """What the other replicas of a fleet have rented: their numbers are in the order of their names."""

    names: Collection[str] = ()
    machines: Collection[int] = ()
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, contracts: Iterable[Contract], base: str, owner: str) -> FleetState:
        """Find the other replicas of the fleet of this label among the account's contracts."""
        fleet = base.rpartition("/")[0]
        found = []
        for contract in contracts:
            label = Label.parse(contract.label)
            if label and label.owner == owner and label.base.rpartition("/")[0] == fleet and label.base != base:
                found.append((label.base, contract))
        return cls(
            names={name for name, _ in found},
            machines={one.machine_id for _, one in found},
            groups={
                "host": {str(one.host_id) for _, one in found},
                "country": {country(one.geolocation) for _, one in found},
            },
        )


def assign_offers(candidates: Sequence[Candidate], slot: ReplicaSlot, state: FleetState) -> list[Candidate]:
    """Return the candidates of one replica, best first; no two replicas of a fleet are assigned the same machine.

    Replicas that are up already keep their hosts (countries) to themselves as long as there are others, and leave
    the rest to those that are not.
    """
    free = [one for one in distinct_machines(candidates) if one.offer.machine_id not in state.machines]
    if slot.of <= 1:
        return free
    if slot.spread != "none":
        free = spread_by(free, state.groups.get("host", ()), lambda one: str(one.offer.host_id))
    if slot.spread == "country":
        free = spread_by(free, state.groups.get("country", ()), lambda one: country(one.offer.geolocation))
    vacant = max(slot.of - len(state.names), 1)
    return free[slot.index % vacant :: vacant]


def spread_by(
    candidates: Sequence[Candidate], taken: Collection[str], group: Callable[[Candidate], str]
) -> list[Candidate]:
    """Return the best candidate of each group first, then the second of each; groups that are taken come a turn later.

    The order within a turn stays as it was: by rank.
    """
    turns: dict[str, int] = {}
    numbered = []
    for place, one in enumerate(candidates):
        name = group(one)
        turn = turns.get(name, 1 if name in taken else 0)
        turns[name] = turn + 1
        numbered.append((turn, place, one))
    return [one for _, _, one in sorted(numbered, key=lambda entry: entry[:2])]


def country(geolocation: str) -> str:
    """Return the country's code of a place as Vast.ai writes it: "Sweden, SE"."""
    return geolocation.rpartition(",")[2].strip()
