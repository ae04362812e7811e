"""Converts an Instance's inputs for its verbs, and its results to outputs for the state. Called by components.instance.

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
from components.vast.change import record_inputs
from components.vast.drift import Watch
from components.vast.identity import Authority, fetch_certificate
from components.vast.json_values import as_text
from components.vast.label import parse_nonce
from components.vast.market import Search
from components.vast.models import Contract, gpus
from components.vast.money import Budget, bandwidth_cost, hourly_cost
from components.vast.probe import HttpProbe
from components.vast.ranking import Candidate
from components.vast.rental_spec import Bid, Rented, Spec
from components.vast.status import Observation
from policy.facts import instance_facts
from policy.rules import PolicyLimits, violations

MAX_SUMMARIES = 8  # best candidates for a policy pack


@dataclass(frozen=True)
class Declared:
    """An instance's inputs, except those of its container (Spec) and of its rental (Order)."""

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
        """Parse inputs or outputs; with a CA the probe uses TLS."""
        declared = structure(cls, props)
        return replace(declared, probe=replace(declared.probe, ca_certificate=declared.ca_certificate))

    @property
    def resource_key(self) -> str:
        return f"{self.label_base}@{self.owner}"

    @property
    def parsed_search(self) -> Search:
        return structure(Search, json.loads(self.search))


def container(props: Mapping[str, Any]) -> Spec:
    spec = structure(Spec, props)
    ca, key = props.get("ca_certificate"), props.get("ca_private_key")
    authority = Authority(str(ca), str(key)) if ca else None
    return replace(spec, authority=authority, pack=lambda: packed_env(spec.files))


def input_outputs(props: Mapping[str, Any], declared: Declared, label: str) -> dict[str, Any]:
    """Return the outputs that come from inputs. Of the secret environment they have only the probe's variables."""
    names, nonce = declared.probe.names(), parse_nonce(label)
    env = {name: value for name, value in structure(Spec, props).env_for(nonce).items() if name in names}
    return {**record_inputs(props), "env": env, "label": label, "nonce": nonce}


def live_outputs(contract: Contract, observed: Observation, probe: HttpProbe) -> dict[str, Any]:
    """Return the outputs that every read updates."""
    outs: dict[str, Any] = {"status": contract.actual_status or "provisioning", "end_date": contract.end_date}
    if observed.port is not None:
        outs |= {"ip": observed.ip, "port": observed.port, "url": probe.url(observed.ip, observed.port)}
    return outs


def certificate_end(probe: HttpProbe, ip: str, port: int) -> dict[str, Any]:
    """Return the end of the server's certificate as output, in seconds since the epoch; empty without one."""
    certificate = fetch_certificate(ip, port, probe.ca_certificate) if probe.ca_certificate else None
    return {"certificate_expires_at": certificate.ends_at} if certificate else {}


class InstanceOutputs:
    """The outputs of an instance for programs, with Vast.ai's names if there are any; the state has more."""

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
    contract, candidate, probe = rented.contract, rented.candidate, declared.probe
    return {
        **input_outputs(props, declared, contract.label),
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
        "rejected_machines": [record(replace(item, after_s=round(item.after_s, 1))) for item in rented.rejected],
        "ready_s": round(rented.ready_s, 1),
    }


def summaries(candidates: Sequence[Candidate], bid: Bid | None) -> list[dict[str, Any]]:
    return [
        item.summary() | ({"bid_usd": bid.price_for(item.offer)} if bid else {}) for item in candidates[:MAX_SUMMARIES]
    ]


def refusals(news: Mapping[str, Any], offers: Sequence[Mapping[str, Any]] = ()) -> list[CheckFailure]:
    """Check inputs and offers by the policy; the search already excludes forbidden offers."""
    # the CA's certificate may be unknown before it is created
    inputs, tls = drop_unknowns(dict(news)), news.get("ca_certificate") not in (None, "")
    broken = violations(instance_facts(inputs, offers, tls=tls), structure(PolicyLimits, inputs.get("policy") or {}))
    lines = ["the policy of this stack refuses it; nothing is rented", *broken]
    return [CheckFailure("", "\n".join(lines))] if broken else []
