"""Vast.ai's objects as frozen records: Offer, Contract, Account. Made by `client`.

Units are in the names: `_mb` as Vast lists them (MiB-ish), `_mbps` megabits, `dph` dollars per hour.
Field meanings: Vast.ai API reference, "search offers" and "show instance".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from components.errors import MalformedAnswer
from components.records import structure
from components.redaction import plain
from components.vast.json_values import Json, Wire
from components.vast.query import official_parser

HOURS_PER_MONTH = 730.0
T = TypeVar("T")

# Vast.ai's names of fields that have another name here. A field that is missing in the response keeps its default.
WIRE = {
    "public_ip": "public_ipaddr",
    "image": "image_uuid",
    "dph_total_usd": "dph_total",
    "inet_down_mbps": "inet_down",
    "inet_down_cost_usd_gb": "inet_down_cost",
    "inet_up_cost_usd_gb": "inet_up_cost",
    "min_bid_usd": "min_bid",
    "storage_cost_usd_gb_month": "storage_cost",
}
# Fields of an offer that `query.value_of` reads besides the fields that a query may name.
SOURCE_FIELDS = ("end_date", "hosting_type", "driver_vers")


def read(cls: type[T], raw: Wire, **values: Json) -> T:
    """Parse a record from Vast.ai's JSON, where a number may be a string and a string may be null or end in a newline.

    `values`: fields that `raw` has neither under their own name nor under that in WIRE. Raises MalformedAnswer for an
    invalid number, and if a field without default is missing.
    """
    raw = {name: plain(value) if isinstance(value, str) else value for name, value in raw.items()}
    values = {item.name: raw.get(WIRE.get(item.name, item.name)) for item in fields(cls)} | values  # type: ignore[arg-type]
    values = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
    try:
        return structure(cls, {name: value for name, value in values.items() if value != ""} | {"raw": raw})
    except (TypeError, ValueError) as error:
        raise MalformedAnswer(f"the API's response is not a valid {cls.__name__}: {error}") from None


def gpus(count: int, name: str) -> str:
    """Return "RTX 4090", or "2x RTX 4090"."""
    return f"{count}x {name}" if count > 1 else name


@dataclass(frozen=True)
class Offer:
    """An offer of the marketplace: a machine, or a share of one, that can be rented now."""

    ask_id: int
    machine_id: int
    dph_total_usd: float
    host_id: int = 0
    gpu_name: str = ""
    num_gpus: int = 1
    inet_down_mbps: float = 0.0
    inet_down_cost_usd_gb: float = 0.0
    reliability: float = 0.0
    public_ip: str = ""
    geolocation: str = ""
    min_bid_usd: float = 0.0
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, raw: Wire) -> Offer:
        """Parse an offer. Raises MalformedAnswer if it has no id, machine or price."""
        reliability = raw.get("reliability", raw.get("reliability2"))
        return read(cls, raw, ask_id=raw.get("ask_contract_id", raw.get("id")), reliability=reliability)

    def record(self) -> dict[str, Json]:
        """Return the JSON of this offer in the state: all fields that a later query may use."""
        names = {*official_parser().offers_fields, *SOURCE_FIELDS} - {"id", "rentable", "rented"}
        values = {key: value for key, value in self.raw.items() if key in names and value is not None}
        return {**values, "ask_contract_id": self.ask_id}

    @property
    def place(self) -> str:
        return self.geolocation or "place unknown"


@dataclass(frozen=True)
class Contract:
    """An instance: the rented machine, its state and its address."""

    id: int
    machine_id: int = 0
    host_id: int = 0
    label: str = ""
    actual_status: str = ""
    intended_status: str = ""
    cur_state: str = ""
    next_state: str = ""
    status_msg: str = ""
    public_ip: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    image: str = ""
    gpu_name: str = ""
    num_gpus: int = 1
    dph_total_usd: float = 0.0
    storage_cost_usd_gb_month: float = 0.0
    inet_down_cost_usd_gb: float = 0.0
    inet_up_cost_usd_gb: float = 0.0
    is_bid: bool = False
    geolocation: str = ""
    start_date: float = 0.0
    end_date: float = 0.0
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, raw: Wire) -> Contract:
        """Parse an instance, from the response of a single read or a row of the list."""
        return read(cls, raw, ports=_host_ports(raw.get("ports")))

    def env_values(self) -> list[str]:
        """Return the values of the container's environment. The API returns them in clear; never print them."""
        pairs = self.raw.get("extra_env")
        return [str(pair[1]) for pair in pairs if len(pair) == 2] if isinstance(pairs, list) else []

    @property
    def command_digest(self) -> str:
        """A digest of the reported entrypoint and arguments; "" if the API reports none."""
        parts = [self.raw.get("onstart"), self.raw.get("image_args")]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12] if any(parts) else ""

    def host_port(self, container_port: int) -> int | None:
        """Return the external TCP port of `container_port`; None while the host has not mapped it."""
        return self.ports.get(f"{container_port}/tcp")


def _host_ports(raw: Json) -> dict[str, int]:
    """Flatten Docker's port map {"8000/tcp": [{"HostPort": "40123"}]}; a null entry is an unmapped port."""
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
    """The account of the API key, and its remaining credit."""

    id: int = 0
    credit_usd: float = 0.0

    @classmethod
    def parse(cls, raw: Wire) -> Account:
        return read(cls, raw, credit_usd=raw.get("credit", raw.get("balance")))


@dataclass(frozen=True)
class Charge:
    """A charge of Vast.ai for one instance, from `start` to `end` in seconds since the epoch."""

    instance_id: int
    amount_usd: float
    start: float
    end: float
    label: str = ""
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, raw: Wire) -> Charge:
        """Parse a row of the charges; its `source` is "instance-ID". Raises MalformedAnswer."""
        metadata = raw.get("metadata")
        label = metadata.get("label") if isinstance(metadata, Mapping) else None
        instance_id = str(raw.get("source")).rpartition("-")[2]
        return read(cls, raw, instance_id=instance_id, amount_usd=raw.get("amount"), label=label)


@dataclass(frozen=True)
class PriceIncrease:
    """A price increase announced by a host; prices per second, as in the official SDK's price_increase module."""

    contract_id: int
    new_gpu_costpersec: float = 0.0
    new_disk_ram_costpersec: float = 0.0

    @property
    def dph_usd(self) -> float:
        return (self.new_gpu_costpersec + self.new_disk_ram_costpersec) * 3600.0
