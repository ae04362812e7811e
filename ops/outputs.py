"""A stack's outputs as records: the one place in ops/ that knows their names. Called by commands that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.records import structure
from components.vast.json_values import Json

TRUSTED = ("servers_ca_certificate", "ca_certificate")


@dataclass(frozen=True)
class Replica:
    """One instance of a stack: Vast.ai's ids, where it serves, dollars per hour."""

    instance_id: int
    machine_id: int = 0
    host_id: int = 0
    gpu: str = ""
    geolocation: str = ""
    url: str = ""
    hourly_cost_usd: float = 0.0


@dataclass(frozen=True)
class StackOutputs:
    """What a stack has running; `url` is the gateway's where there is one; `api_key` never leaves the process.

    `ca_certificate`: of the servers, and of a gateway whose certificate is another CA's.
    """

    url: str
    model: str
    replicas: list[Replica]
    validated: bool | None
    checks: int
    weights: str
    hourly_cost_usd: float  # of everything that is rented, in dollars
    ca_certificate: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)

    @property
    def gateway(self) -> bool:
        """Whether clients reach the servers through a gateway, which also stands where there is none of these."""
        return bool(self.url) and (not self.replicas or self.url != self.replicas[0].url)

    @property
    def gateway_cost_usd(self) -> float:
        """Dollars per hour for the gateway: what no server costs; 0 for one that is not rented."""
        return max(round(self.hourly_cost_usd - sum(one.hourly_cost_usd for one in self.replicas), 5), 0.0)

    @classmethod
    def parse(cls, raw: Mapping[str, Json]) -> StackOutputs:
        """Read a stack's outputs; a stack with nothing in it has no replicas."""
        report = raw.get("validation") or {}
        return cls(
            url=str(raw.get("url") or ""),
            model=str(raw.get("model") or ""),
            replicas=[structure(Replica, one) for one in raw.get("replicas") or () if one.get("instance_id")],
            validated=bool(report.get("passed")) if report else None,
            checks=int(report.get("checks") or 0),
            weights=str(report.get("weights") or ""),
            hourly_cost_usd=float((raw.get("hourly_cost_usd") or {}).get("total") or 0.0),
            ca_certificate="".join({raw[key].strip() + "\n": 1 for key in TRUSTED if raw.get(key)}),
            api_key=str(raw.get("api_key") or ""),
        )
