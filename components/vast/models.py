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

# Vast.ai's name of a field that is called otherwise here. What its answer lacks keeps its default.
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
# Kept of an offer besides the fields that a query may name: `query.unmet_conditions` judges some of those by these.
JUDGED_BY = ("end_date", "hosting_type", "driver_vers")


def read(cls: type[T], raw: Wire, **given: Json) -> T:
    """Return a record of Vast.ai's JSON, in which a number may be a string, and a string null or end in a newline.

    `given`: values that do not stand under the field's name or WIRE's. Raises MalformedAnswer for a number that is
    none, or where something is missing that has no default.
    """
    raw = {name: plain(value) if isinstance(value, str) else value for name, value in raw.items()}
    named = {one.name: raw.get(WIRE.get(one.name, one.name)) for one in fields(cls)}  # type: ignore[arg-type]
    values = {name: value.strip() if isinstance(value, str) else value for name, value in (named | given).items()}
    try:
        return structure(cls, {name: value for name, value in values.items() if value != ""} | {"raw": raw})
    except (TypeError, ValueError) as error:
        raise MalformedAnswer(f"the API's answer is no {cls.__name__}: {error}") from None


def gpus(count: int, name: str) -> str:
    """Return "RTX 4090", or "2x RTX 4090"."""
    return f"{count}x {name}" if count > 1 else name


@dataclass(frozen=True)
class Offer:
    """One line of the marketplace: a machine, or a share of one, that can be rented now."""

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
        """Read an offer off the wire. Raises MalformedAnswer when it lacks id, machine or price."""
        reliability = raw.get("reliability", raw.get("reliability2"))
        return read(cls, raw, ask_id=raw.get("ask_contract_id", raw.get("id")), reliability=reliability)

    def record(self) -> dict[str, Json]:
        """Return the JSON that state keeps of this offer: every field that a later query may judge its machine by."""
        kept = {*official_parser().offers_fields, *JUDGED_BY} - {"id", "rentable", "rented"}
        fields_kept = {key: value for key, value in self.raw.items() if key in kept and value is not None}
        return {**fields_kept, "ask_contract_id": self.ask_id}

    @property
    def place(self) -> str:
        return self.geolocation or "place unknown"


@dataclass(frozen=True)
class Contract:
    """An instance: what is rented, in what state, where it can be reached."""

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
        """Read an instance off the wire, from the single read or a row of the list."""
        return read(cls, raw, ports=_host_ports(raw.get("ports")))

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

    id: int = 0
    credit_usd: float = 0.0

    @classmethod
    def parse(cls, raw: Wire) -> Account:
        """Read the current user off the wire."""
        return read(cls, raw, credit_usd=raw.get("credit", raw.get("balance")))


@dataclass(frozen=True)
class Charge:
    """What an instance has cost from `start` to `end`, seconds since the epoch, by Vast.ai's bill."""

    instance_id: int
    amount_usd: float
    start: float
    end: float
    label: str = ""
    raw: Mapping[str, Json] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, raw: Wire) -> Charge:
        """Read a line of the charges off the wire; its source is "instance-ID". Raises MalformedAnswer."""
        metadata = raw.get("metadata")
        label = metadata.get("label") if isinstance(metadata, Mapping) else None
        return read(
            cls, raw, instance_id=str(raw.get("source")).rpartition("-")[2], amount_usd=raw.get("amount"), label=label
        )


@dataclass(frozen=True)
class PriceIncrease:
    """A raise that a host has announced; prices per second, as the official SDK's price_increase module has them."""

    contract_id: int
    new_gpu_costpersec: float = 0.0
    new_disk_ram_costpersec: float = 0.0

    @property
    def dph_usd(self) -> float:
        return (self.new_gpu_costpersec + self.new_disk_ram_costpersec) * 3600.0
