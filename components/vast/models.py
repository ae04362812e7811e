"""Vast.ai's objects as frozen records: Offer, Contract, Account. Made by `client`.

Units are in the names: `_mb` as Vast lists them (MiB-ish), `_mbps` megabits, `dph` dollars per hour.
Field meanings: Vast.ai API reference, "search offers" and "show instance".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar

from components.errors import MalformedAnswer
from components.vast.json_values import Json, Wire, integer, number, text

HOURS_PER_MONTH = 730.0
T = TypeVar("T")

# Vast.ai's name of a field that is called otherwise here. What its answer lacks is 0 or empty.
WIRE = {
    "public_ip": "public_ipaddr",
    "image": "image_uuid",
    "dph_total_usd": "dph_total",
    "inet_down_mbps": "inet_down",
    "inet_down_cost_usd_gb": "inet_down_cost",
    "min_bid_usd": "min_bid",
    "storage_cost_usd_gb_month": "storage_cost",
}

# What an offer is remembered by: enough to rank it again, and every field that a later query may judge the machine by.
RECORDED = (
    "ask_contract_id", "machine_id", "host_id", "gpu_name", "num_gpus", "gpu_ram", "gpu_total_ram", "compute_cap",
    "cuda_max_good", "driver_version", "dph_base", "dph_total", "storage_cost", "inet_down", "inet_up",
    "inet_down_cost", "inet_up_cost", "reliability", "score", "dlperf", "dlperf_per_dphtotal", "direct_port_count",
    "static_ip", "public_ipaddr", "geolocation", "end_date", "verification", "hosting_type", "cpu_cores_effective",
    "cpu_ram", "cpu_arch", "disk_space", "min_bid", "bw_nvlink", "cluster_id", "cpu_cores", "cpu_ghz", "disk_bw",
    "driver_vers", "external", "flops_per_dphtotal", "gpu_arch", "gpu_display_active", "gpu_frac", "gpu_max_power",
    "gpu_max_temp", "gpu_mem_bw", "has_avx", "mobo_name", "pci_gen", "pcie_bw", "total_flops", "ubuntu_version",
    "vms_enabled",
)  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """One line of the marketplace: a machine, or a share of one, that can be rented now."""

    ask_id: int
    machine_id: int
    host_id: int
    gpu_name: str
    num_gpus: int
    dph_total_usd: float
    inet_down_mbps: float
    inet_down_cost_usd_gb: float
    reliability: float
    public_ip: str
    geolocation: str
    end_date: float
    min_bid_usd: float
    raw: Mapping[str, Json] = field(repr=False)

    @classmethod
    def parse(cls, raw: Wire) -> Offer:
        """Read an offer off the wire, or back from a record. Raises MalformedAnswer when it lacks id or price."""
        return _read(
            cls,
            raw,
            ask_id=integer(raw, "ask_contract_id", None if raw.get("id") is None else integer(raw, "id")),
            machine_id=integer(raw, "machine_id"),
            dph_total_usd=number(raw, "dph_total"),
            reliability=number(raw, "reliability", number(raw, "reliability2", 0.0)),
        )

    def record(self) -> dict[str, Json]:
        """Return the JSON that state keeps of this offer; `parse` reads it back."""
        kept = {key: self.raw[key] for key in RECORDED if self.raw.get(key) is not None}
        if isinstance(kept.get("public_ipaddr"), str):
            kept["public_ipaddr"] = kept["public_ipaddr"].strip()
        return {**kept, "ask_contract_id": self.ask_id}

    @property
    def place(self) -> str:
        return self.geolocation or "place unknown"


@dataclass(frozen=True)
class Contract:
    """An instance: what is rented, in what state, where it can be reached."""

    id: int
    machine_id: int
    host_id: int
    label: str
    actual_status: str
    intended_status: str
    cur_state: str
    next_state: str
    status_msg: str
    public_ip: str
    ports: Mapping[str, int]
    image: str
    gpu_name: str
    num_gpus: int
    dph_total_usd: float
    storage_cost_usd_gb_month: float
    is_bid: bool
    geolocation: str
    start_date: float
    end_date: float
    raw: Mapping[str, Json] = field(repr=False)

    @classmethod
    def parse(cls, raw: Wire) -> Contract:
        """Read an instance off the wire, from the single read or a row of the list."""
        ports = MappingProxyType(_host_ports(raw.get("ports")))
        return _read(cls, raw, id=integer(raw, "id"), ports=ports, is_bid=bool(raw.get("is_bid")))

    def env_values(self) -> list[str]:
        """Return the values of the container's environment, which the API shows in clear: not for people's eyes."""
        pairs = self.raw.get("extra_env")
        return [str(pair[1]) for pair in pairs if len(pair) == 2] if isinstance(pairs, list) else []

    @property
    def command_digest(self) -> str:
        """A digest of entrypoint and arguments as the API reports them, or "" where it reports none."""
        parts = [self.raw.get("onstart"), self.raw.get("image_args")]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12] if any(parts) else ""

    def host_port(self, container_port: int) -> int | None:
        """Return the external port that reaches `container_port` over TCP, once the host has mapped it."""
        return self.ports.get(f"{container_port}/tcp")


def _read(cls: type[T], raw: Wire, **given: Any) -> T:
    readers: dict[object, Callable[[str], Any]] = {
        "int": lambda key: integer(raw, key, 0),
        "float": lambda key: number(raw, key, 0.0),
        "str": lambda key: text(raw, key),
    }
    given |= {"num_gpus": integer(raw, "num_gpus", 1), "raw": MappingProxyType(dict(raw))}
    own = [one for one in fields(cls) if one.name not in given]  # type: ignore[arg-type]
    return cls(**{one.name: readers[one.type](WIRE.get(one.name, one.name)) for one in own}, **given)


def _host_ports(raw: Json) -> dict[str, int]:
    """Flatten Docker's port map {"8000/tcp": [{"HostPort": "40123"}]}; null entries are ports not mapped yet."""
    if not isinstance(raw, Mapping):
        return {}
    mapped = {}
    for name, bindings in raw.items():
        if isinstance(bindings, list) and bindings and isinstance(bindings[0], Mapping):
            try:
                mapped[str(name)] = int(bindings[0]["HostPort"])
            except (KeyError, TypeError, ValueError):
                raise MalformedAnswer(f"the API's port map for {name!r} is unreadable: {bindings!r}") from None
    return mapped


@dataclass(frozen=True)
class Account:
    """Who pays: the account behind the key, and the credit it has left."""

    id: int
    credit_usd: float

    @classmethod
    def parse(cls, raw: Wire) -> Account:
        """Read the current user off the wire."""
        return cls(id=integer(raw, "id", 0), credit_usd=number(raw, "credit", number(raw, "balance", 0.0)))
