"""A stack's fleet as its state has it: each replica with what belongs to it, and what they share. Pure.

Called by roll, rotate-key, status and metrics. Reads the resources of a state; components/fleet.py makes them, by these
types and names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from components.vast.identity import own_key
from components.vast.json_values import Json
from ops.plan import INSTANCE, named

FLEET = "vast:index:RerankerFleet"
GATEWAY = "Gateway"
# What every batch touches beside its instances, by name after the fleet's.
SHARED = ("offers", "keys", "validation", "gateway")


@dataclass(frozen=True)
class ReplicaState:
    """One server: its Instance's URN and id.

    `left`: ids of instances that were replaced, and wait for being destroyed since that update did not end well.
    """

    instance: str
    instance_id: int
    left: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fleet:
    """The replicas by name, in the order of their making; the URNs that every batch touches; the gateway, if any.

    `stray`: names of what else was replaced, and waits for being destroyed.
    """

    replicas: Mapping[str, ReplicaState]
    shared: tuple[str, ...]
    gateway: str | None
    name: str = ""
    stray: tuple[str, ...] = ()

    @classmethod
    def parse(cls, resources: Sequence[Mapping[str, Json]]) -> Fleet:
        """Read the resources of a state."""
        here = [one for one in resources if not one.get("delete")]
        left = [one for one in resources if one.get("delete") and kind(one) == INSTANCE]
        fleet = next((str(one["urn"]) for one in here if one["type"] == FLEET), "")
        name, replicas = named(fleet), {}
        numbered = re.compile(rf"{re.escape(name)}(-\d+)?")
        for one in here:
            urn = str(one["urn"])
            if kind(one) == INSTANCE and one.get("parent") == fleet and numbered.fullmatch(named(urn)):
                gone = tuple(int(each["id"]) for each in left if each["urn"] == urn)
                replicas[named(urn)] = ReplicaState(urn, int(one["id"]), gone)
        by_name = {named(one["urn"]): str(one["urn"]) for one in here}
        gateway = next((str(one["urn"]) for one in here if kind(one) == GATEWAY), None)
        shared = tuple(by_name[key] for part in SHARED if (key := f"{name}-{part}") in by_name)
        belong = {one.instance for one in replicas.values()}
        stray = tuple(named(one["urn"]) for one in resources if one.get("delete") and one["urn"] not in belong)
        return cls(replicas, shared, gateway, name, stray)

    def targets(self, names: Iterable[str]) -> list[str]:
        """Return the URNs of some replicas and of what is shared."""
        return [*(self.replicas[name].instance for name in names), *self.shared]


def batches(fleet: Fleet, names: Iterable[str], surge: int) -> list[list[str]]:
    """Split replicas into batches of at most `surge`, after one of all that an earlier run has left half replaced.

    That one is due in any case: an update with targets fails while something else waits for being destroyed.
    """
    first = [name for name, one in fleet.replicas.items() if one.left]
    wanted = set(names) - set(first)
    rest = [name for name in fleet.replicas if name in wanted]
    return [*([first] if first else []), *(rest[at : at + surge] for at in range(0, len(rest), surge))]


def key_resource(resources: Iterable[Mapping[str, Json]], name: str) -> Mapping[str, Json]:
    """Return the ApiKey of that name (FLEET-key: the clients'; FLEET-own-key: the stack's secret), or nothing."""
    return next((one for one in resources if kind(one) == "ApiKey" and named(one["urn"]) == name), {})


def own_keys(resources: Sequence[Mapping[str, Json]]) -> dict[int, str]:
    """Return each server's own key, by its instance's id; without a guard servers have none."""
    fleet = Fleet.parse(resources)
    secret = secret_output(key_resource(resources, f"{fleet.name}-own-key"), "value")
    urns = {one.instance for one in fleet.replicas.values()}
    here = [one for one in resources if one["urn"] in urns and not one.get("delete")]
    return {
        int(one["id"]): own_key(secret, secret_output(one, "nonce"))
        for one in here
        if (one.get("inputs") or {}).get("key_env")
    }


def secret_output(resource: Mapping[str, Json], name: str) -> str:
    """Return an output of a state with secrets in clear, where one is {"plaintext": JSON}; "" if it is not there."""
    value = (resource.get("outputs") or {}).get(name)
    if isinstance(value, Mapping) and "plaintext" in value:
        return str(json.loads(value["plaintext"]))
    return str(value or "")


def kind(resource: Mapping[str, Json]) -> str:
    """Return a resource's type without its package: Instance."""
    return str(resource.get("type")).rpartition(":")[2]
