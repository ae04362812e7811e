"""An Instance's properties, as the engine carries them, and the records of components.vast that they stand for.

Called by the verbs of components.instance. Inputs: see InstanceArgs there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.container_files import packed_env
from components.vast import cost
from components.vast.change import recorded
from components.vast.drift import Watch
from components.vast.identity import Authority, served_expiry
from components.vast.json_values import as_text
from components.vast.label import Label
from components.vast.models import Contract
from components.vast.probe import HttpProbe
from components.vast.rental_spec import Bid, Rented
from components.vast.spec import Spec
from components.vast.status import Observation


def spec(props: Mapping[str, Any]) -> Spec:
    """Return the container."""
    files = dict(props.get("files") or {})
    return Spec(
        image=str(props["image"]),
        disk_gb=float(props["disk_gb"]),
        runtype=str(props.get("runtype") or "args"),
        onstart=props.get("onstart"),
        args=tuple(str(one) for one in props.get("args") or ()),
        ports=tuple(str(one) for one in props.get("ports") or ()),
        user=props.get("user"),
        env={str(key): str(value) for key, value in (props.get("env") or {}).items()},
        files=files,
        pack=lambda: packed_env(files),
        image_login=props.get("image_login"),
        authority=_authority(props),
    )


def _authority(props: Mapping[str, Any]) -> Authority | None:
    if not props.get("ca_certificate"):
        return None
    return Authority(str(props["ca_certificate"]), str(props["ca_private_key"]))


def probe(props: Mapping[str, Any]) -> HttpProbe:
    """Return the readiness probe, by TLS where there is a CA."""
    return HttpProbe.parse({**props["probe"], "ca_certificate": props.get("ca_certificate") or ""})


def record(props: Mapping[str, Any]) -> dict[str, Any]:
    """Return what outputs keep of the inputs; of the environment, secret, only what the probe fills in."""
    env = dict(props.get("env") or {})
    return {**recorded(props), "env": {name: env[name] for name in probe(props).names() if name in env}}


def watch(props: Mapping[str, Any]) -> Watch:
    """Return how strictly it is watched."""
    raw = props.get("watch") or {}
    certificate_d = raw.get("renew_certificate_before_d")
    return Watch(
        heal_on=raw.get("heal_on") or "dead",
        renew_before_h=float(raw.get("renew_before_h") or 0.0),
        renew_certificate_before_d=30.0 if certificate_d is None else float(certificate_d),
    )


def bid(props: Mapping[str, Any]) -> Bid | None:
    """Return what is bid; None for an on-demand instance."""
    raw = props.get("bid")
    if not raw:
        return None
    price, cap = raw.get("price_usd"), raw.get("cap_usd")
    return Bid(
        price_usd=None if price is None else float(price),
        factor=float(raw.get("factor") or 1.25),
        cap_usd=None if cap is None else float(cap),
    )


def resource_key(props: Mapping[str, Any]) -> str:
    """Return whose instance it is: a label without its digest."""
    return f"{props.get('label_base')}@{props.get('owner')}"


def live(contract: Contract, seen: Observation, asked: HttpProbe) -> dict[str, Any]:
    """Return what is read anew each time."""
    found: dict[str, Any] = {"status": contract.actual_status or "provisioning"}
    if seen.port is not None:
        found |= {"ip": seen.ip, "port": seen.port, "url": asked.url(seen.ip, seen.port)}
    return found


def outputs(props: Mapping[str, Any], label: Label, rented: Rented) -> dict[str, Any]:
    """Return what the state keeps of an instance that serves."""
    asked = probe(props)
    contract, candidate = rented.contract, rented.candidate
    gpus = f"{contract.num_gpus}x {contract.gpu_name}" if contract.num_gpus > 1 else contract.gpu_name
    hourly = cost.of_contract(contract, float(props["disk_gb"]))
    ends = served_expiry(rented.ip, rented.port, asked.ca_certificate) if asked.ca_certificate else None
    return {
        **record(props),
        "instance_id": contract.id,
        "machine_id": contract.machine_id,
        "host_id": contract.host_id,
        "ip": rented.ip,
        "port": rented.port,
        "url": asked.url(rented.ip, rented.port),
        "gpu": gpus,
        "geolocation": contract.geolocation,
        "status": contract.actual_status,
        "drift": "",
        "label": str(label),
        "dph_total_usd": contract.dph_total_usd,
        "image_uuid": contract.image,
        "command_digest": contract.command_digest,
        "hourly_cost_usd": hourly,
        "bandwidth_cost_usd_gb": cost.bandwidth(contract),
        "pull_cost_usd": round(candidate.pull_cost_usd, 4) if candidate else 0.0,
        "offer": as_text(candidate.offer.record()) if candidate else "",
        "certificate_expires_at": ends or 0,
        "rejected_machines": [one.record() for one in rented.rejected],
        "adopted": rented.adopted,
        "ready_s": round(rented.ready_s, 1),
    }
