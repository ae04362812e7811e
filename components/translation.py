"""An Instance's inputs as its verbs work with them, and the outputs that a state keeps. Called by components.instance.

Inputs: see InstanceArgs there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure

from components.container_files import packed_env
from components.plugin.verbs import drop_unknowns
from components.records import record, structure
from components.vast.assignment import ReplicaSlot
from components.vast.change import recorded
from components.vast.drift import Watch
from components.vast.identity import Authority, shown_by
from components.vast.json_values import as_text
from components.vast.label import nonce_of
from components.vast.market import Search
from components.vast.models import Contract, gpus
from components.vast.money import Budget, bandwidth_cost, hourly_cost
from components.vast.probe import HttpProbe
from components.vast.ranking import Candidate
from components.vast.rental_spec import Bid, Rented, Spec
from components.vast.status import Observation
from policy.facts import instance_facts
from policy.rules import PolicyLimits, violations

SHOWN = 8  # candidates that a policy pack is shown, best first


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

    @property
    def parsed_search(self) -> Search:
        return structure(Search, json.loads(self.search))


def container(props: Mapping[str, Any]) -> Spec:
    """Return the container that inputs describe."""
    spec = structure(Spec, props)
    ca, key = props.get("ca_certificate"), props.get("ca_private_key")
    authority = Authority(str(ca), str(key)) if ca else None
    return replace(spec, authority=authority, pack=lambda: packed_env(spec.files))


def kept(props: Mapping[str, Any], declared: Declared, label: str) -> dict[str, Any]:
    """Return what outputs keep of the inputs; of the environment, secret, only what the probe fills in."""
    names, nonce = declared.probe.names(), nonce_of(label)
    env = {name: value for name, value in structure(Spec, props).env_of(nonce).items() if name in names}
    return {**recorded(props), "env": env, "label": label, "nonce": nonce}


def live(contract: Contract, seen: Observation, probe: HttpProbe) -> dict[str, Any]:
    """Return what is read anew each time."""
    outs: dict[str, Any] = {"status": contract.actual_status or "provisioning", "end_date": contract.end_date}
    if seen.port is not None:
        outs |= {"ip": seen.ip, "port": seen.port, "url": probe.url(seen.ip, seen.port)}
    return outs


def certificate_end(probe: HttpProbe, ip: str, port: int) -> dict[str, Any]:
    """Return when the certificate ends that a server shows, in seconds since the epoch; nothing where it shows none."""
    shown = shown_by(ip, port, probe.ca_certificate) if probe.ca_certificate else None
    return {"certificate_expires_at": shown.ends_at} if shown else {}


class InstanceOutputs:
    """What a program can read of an instance, in Vast.ai's own names where it has one; more is in the state."""

    instance_id: pulumi.Output[int]
    machine_id: pulumi.Output[int]
    host_id: pulumi.Output[int]
    ip: pulumi.Output[str]
    port: pulumi.Output[int]
    url: pulumi.Output[str]
    nonce: pulumi.Output[str]
    gpu: pulumi.Output[str]
    geolocation: pulumi.Output[str]
    hourly_cost_usd: pulumi.Output[dict[str, float]]
    bandwidth_cost_usd_gb: pulumi.Output[dict[str, float]]
    pull_cost_usd: pulumi.Output[float]
    rejected_machines: pulumi.Output[list[dict[str, Any]]]
    certificate_expires_at: pulumi.Output[int]


def outputs(props: Mapping[str, Any], declared: Declared, rented: Rented) -> dict[str, Any]:
    """Return what the state keeps of an instance that serves."""
    contract, candidate, probe = rented.contract, rented.candidate, declared.probe
    return {
        **kept(props, declared, contract.label),
        "instance_id": contract.id,
        "machine_id": contract.machine_id,
        "host_id": contract.host_id,
        "ip": rented.ip,
        "port": rented.port,
        "url": probe.url(rented.ip, rented.port),
        "gpu": gpus(contract.num_gpus, contract.gpu_name),
        "geolocation": contract.geolocation,
        "status": contract.actual_status,
        "end_date": contract.end_date,
        "drift": "",
        "dph_total_usd": contract.dph_total_usd,
        "image_uuid": contract.image,
        "command_digest": contract.command_digest,
        "hourly_cost_usd": hourly_cost(contract, float(props["disk_gb"])),
        "bandwidth_cost_usd_gb": bandwidth_cost(contract),
        "pull_cost_usd": round(candidate.pull_cost_usd, 4) if candidate else 0.0,
        "offer": as_text(candidate.offer.record()) if candidate else "",
        "certificate_expires_at": 0,
        **certificate_end(probe, rented.ip, rented.port),
        "rejected_machines": [record(replace(one, after_s=round(one.after_s, 1))) for one in rented.rejected],
        "ready_s": round(rented.ready_s, 1),
    }


def summaries(candidates: Sequence[Candidate], bid: Bid | None) -> list[dict[str, Any]]:
    """Return what a policy pack is shown of the offers."""
    return [one.summary() | ({"bid_usd": bid.on(one.offer)} if bid else {}) for one in candidates[:SHOWN]]


def refusals(news: Mapping[str, Any], offers: Sequence[Mapping[str, Any]] = ()) -> list[CheckFailure]:
    """Judge by the policy what is asked for and what may be rented; the search already asks for no other offers."""
    inputs, tls = drop_unknowns(dict(news)), news.get("ca_certificate") not in (None, "")  # or not known until made
    broken = violations(instance_facts(inputs, offers, tls=tls), structure(PolicyLimits, inputs.get("policy") or {}))
    lines = ["the policy of this stack refuses it; nothing is rented", *broken]
    return [CheckFailure("", "\n".join(lines))] if broken else []
