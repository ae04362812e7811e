"""Reads a stack's fleet from the resources of its state: the replicas and the shared resources. Pure.

Called by roll, rotate-key, scale, status, logs and metrics. components/fleet.py declares these types and names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from components.vast.identity import own_key
from components.vast.json_values import Json
from ops.plan import INSTANCE, urn_name

FLEET = "vast:index:RerankerFleet"
GATEWAY = "Gateway"
# Every batch also updates these resources; a name is FLEET-SUFFIX.
SHARED = ("offers", "keys", "validation", "gateway")


@dataclass(frozen=True)
class ReplicaState:
    """A replica: its Instance's URN and id.

    `pending_delete`: ids of replaced instances that a failed update did not destroy.
    """

    urn: str
    instance_id: int
    pending_delete: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fleet:
    """The replicas by name, in order of creation; the URNs that every batch updates; the gateway's URN, if any.

    `pending_delete`: names of other replaced resources that a failed update did not destroy.
    """

    replicas: Mapping[str, ReplicaState]
    shared: tuple[str, ...]
    gateway: str | None
    name: str = ""
    pending_delete: tuple[str, ...] = ()

    @classmethod
    def parse(cls, resources: Sequence[Mapping[str, Json]]) -> Fleet:
        current = [resource for resource in resources if not resource.get("delete")]
        deleted = [resource for resource in resources if resource.get("delete")]
        fleet = next((str(resource["urn"]) for resource in current if resource["type"] == FLEET), "")
        name, replicas = urn_name(fleet), {}
        replica_name = re.compile(rf"{re.escape(name)}(-\d+)?")
        for resource in current:
            urn = str(resource["urn"])
            is_child = kind(resource) == INSTANCE and resource.get("parent") == fleet
            if is_child and replica_name.fullmatch(urn_name(urn)):
                ids = tuple(int(old["id"]) for old in deleted if kind(old) == INSTANCE and old["urn"] == urn)
                replicas[urn_name(urn)] = ReplicaState(urn, int(resource["id"]), ids)
        by_name = {urn_name(resource["urn"]): str(resource["urn"]) for resource in current}
        gateway = next((str(resource["urn"]) for resource in current if kind(resource) == GATEWAY), None)
        shared = tuple(by_name[key] for suffix in SHARED if (key := f"{name}-{suffix}") in by_name)
        urns = {replica.urn for replica in replicas.values()}
        others = tuple(urn_name(old["urn"]) for old in deleted if old["urn"] not in urns)
        return cls(replicas, shared, gateway, name, others)

    def targets(self, names: Iterable[str]) -> list[str]:
        """Return the URNs of these replicas and of the shared resources."""
        return [*(self.replicas[name].urn for name in names), *self.shared]


def batches(fleet: Fleet, names: Iterable[str], surge: int) -> list[list[str]]:
    """Split replicas into batches of at most `surge`, after a batch of all replicas with pending deletes.

    Those are first because an update with targets fails while any other resource has a pending delete.
    """
    first = [name for name, replica in fleet.replicas.items() if replica.pending_delete]
    others = set(names) - set(first)
    rest = [name for name in fleet.replicas if name in others]
    return [*([first] if first else []), *(rest[at : at + surge] for at in range(0, len(rest), surge))]


def key_resource(resources: Iterable[Mapping[str, Json]], name: str) -> Mapping[str, Json]:
    """Return the ApiKey of that name (FLEET-key: client key; FLEET-own-key: the stack's secret), or {}."""
    return next((row for row in resources if kind(row) == "ApiKey" and urn_name(row["urn"]) == name), {})


def server_keys(resources: Sequence[Mapping[str, Json]]) -> dict[int, str]:
    """Return each server's key by instance id; without a guard, servers have no key."""
    fleet = Fleet.parse(resources)
    secret = secret_output(key_resource(resources, f"{fleet.name}-own-key"), "value")
    urns = {replica.urn for replica in fleet.replicas.values()}
    return {
        int(resource["id"]): own_key(secret, secret_output(resource, "nonce"))
        for resource in resources
        if resource["urn"] in urns and not resource.get("delete") and (resource.get("inputs") or {}).get("key_env")
    }


def secret_output(resource: Mapping[str, Json], name: str) -> str:
    """Return an output from a state with decrypted secrets, where a secret is {"plaintext": JSON}; "" if missing."""
    value = (resource.get("outputs") or {}).get(name)
    if isinstance(value, Mapping) and "plaintext" in value:
        return str(json.loads(value["plaintext"]))
    return str(value or "")


def kind(resource: Mapping[str, Json]) -> str:
    """Return a resource's type without its package: Instance."""
    return str(resource.get("type")).rpartition(":")[2]
