"""An Instance's inputs as its verbs work with them, and the outputs that a state keeps. Called by components.instance.

Inputs: see InstanceArgs there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from components.container_files import packed_env
from components.records import record, structure
from components.vast.assignment import ReplicaSlot
from components.vast.change import recorded
from components.vast.drift import Watch
from components.vast.identity import Authority, served_expiry
from components.vast.json_values import as_text
from components.vast.label import Label
from components.vast.models import Contract
from components.vast.money import Budget, bandwidth_cost, hourly_cost
from components.vast.probe import HttpProbe
from components.vast.rental_spec import Bid, Rented, Spec
from components.vast.status import Observation


@dataclass(frozen=True)
class Declared:
    """What an instance was declared with, beside its container (Spec) and how it is rented (Order)."""

    label_base: str
    owner: str = ""
    search: str = ""
    probe: HttpProbe = field(default_factory=lambda: HttpProbe(0))
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_certificate: str = ""
    watch: Watch = field(default_factory=Watch)
    hedge: int = 1
    money: Budget = field(default_factory=Budget)
    bid: Bid | None = None
    adopt_instance_id: int = 0
    slot: ReplicaSlot = field(default_factory=ReplicaSlot)

    @classmethod
    def of(cls, props: Mapping[str, Any]) -> Declared:
        """Return what inputs or outputs say; the probe asks by TLS where there is a CA."""
        made = structure(cls, props)
        return replace(made, probe=replace(made.probe, ca_certificate=made.ca_certificate))

    @property
    def resource_key(self) -> str:
        return f"{self.label_base}@{self.owner}"


def container(props: Mapping[str, Any]) -> Spec:
    """Return the container that inputs describe."""
    spec = structure(Spec, props)
    ca, key = props.get("ca_certificate"), props.get("ca_private_key")
    authority = Authority(str(ca), str(key)) if ca else None
    return replace(spec, authority=authority, pack=lambda: packed_env(spec.files))


def kept(props: Mapping[str, Any], declared: Declared) -> dict[str, Any]:
    """Return what outputs keep of the inputs; of the environment, secret, only what the probe fills in."""
    names = declared.probe.names()
    return {**recorded(props), "env": {name: value for name, value in declared.env.items() if name in names}}


def live(contract: Contract, seen: Observation, probe: HttpProbe) -> dict[str, Any]:
    """Return what is read anew each time."""
    outs: dict[str, Any] = {"status": contract.actual_status or "provisioning", "end_date": contract.end_date}
    if seen.port is not None:
        outs |= {"ip": seen.ip, "port": seen.port, "url": probe.url(seen.ip, seen.port)}
    return outs


def outputs(props: Mapping[str, Any], declared: Declared, label: Label, rented: Rented) -> dict[str, Any]:
    """Return what the state keeps of an instance that serves."""
    contract, candidate, probe = rented.contract, rented.candidate, declared.probe
    gpus = f"{contract.num_gpus}x {contract.gpu_name}" if contract.num_gpus > 1 else contract.gpu_name
    ends = served_expiry(rented.ip, rented.port, probe.ca_certificate) if probe.ca_certificate else None
    return {
        **kept(props, declared),
        "instance_id": contract.id,
        "machine_id": contract.machine_id,
        "host_id": contract.host_id,
        "ip": rented.ip,
        "port": rented.port,
        "url": probe.url(rented.ip, rented.port),
        "gpu": gpus,
        "geolocation": contract.geolocation,
        "status": contract.actual_status,
        "end_date": contract.end_date,
        "drift": "",
        "label": str(label),
        "dph_total_usd": contract.dph_total_usd,
        "image_uuid": contract.image,
        "command_digest": contract.command_digest,
        "hourly_cost_usd": hourly_cost(contract, float(props["disk_gb"])),
        "bandwidth_cost_usd_gb": bandwidth_cost(contract),
        "pull_cost_usd": round(candidate.pull_cost_usd, 4) if candidate else 0.0,
        "offer": as_text(candidate.offer.record()) if candidate else "",
        "certificate_expires_at": ends or 0,
        "rejected_machines": [record(replace(one, after_s=round(one.after_s, 1))) for one in rented.rejected],
        "ready_s": round(rented.ready_s, 1),
    }
