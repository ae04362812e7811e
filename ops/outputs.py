"""A stack's outputs as records. No other module of ops/ uses the names of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.records import structure
from components.vast.json_values import Json

TRUSTED = ("servers_ca_certificate", "ca_certificate")


@dataclass(frozen=True)
class Replica:
    """One instance of a stack: Vast.ai's ids, its server's URL, dollars per hour."""

    instance_id: int
    machine_id: int = 0
    host_id: int = 0
    gpu: str = ""
    geolocation: str = ""
    url: str = ""
    hourly_cost_usd: float = 0.0


@dataclass(frozen=True)
class StackOutputs:
    """The outputs of a stack; `url` is the gateway's, if there is one; `api_key` never leaves the process.

    `ca_certificate`: the CA of the servers and, if it differs, the CA of the gateway.
    """

    url: str
    model: str
    replicas: list[Replica]
    validated: bool | None
    checks: int
    weights: str
    hourly_cost_usd: float  # of all rented instances
    ca_certificate: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)

    @property
    def has_gateway(self) -> bool:
        """Whether clients use a gateway; it runs even without servers."""
        return bool(self.url) and (not self.replicas or self.url != self.replicas[0].url)

    @property
    def gateway_cost_usd(self) -> float:
        """Dollars per hour of the gateway: the total without the servers; 0 if it is not rented."""
        return max(round(self.hourly_cost_usd - sum(replica.hourly_cost_usd for replica in self.replicas), 5), 0.0)

    @classmethod
    def parse(cls, raw: Mapping[str, Json]) -> StackOutputs:
        report = raw.get("validation") or {}
        return cls(
            url=str(raw.get("url") or ""),
            model=str(raw.get("model") or ""),
            replicas=[structure(Replica, row) for row in raw.get("replicas") or () if row.get("instance_id")],
            validated=bool(report.get("passed")) if report else None,
            checks=int(report.get("checks") or 0),
            weights=str(report.get("weights") or ""),
            hourly_cost_usd=float((raw.get("hourly_cost_usd") or {}).get("total") or 0.0),
            ca_certificate="".join({raw[key].strip() + "\n": 1 for key in TRUSTED if raw.get(key)}),
            api_key=str(raw.get("api_key") or ""),
        )
