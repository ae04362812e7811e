"""A stack's outputs as records: the one place in ops/ that knows their names. Called by commands that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any


@dataclass(frozen=True)
class Replica:
    """One instance of a stack: Vast.ai's ids, where it serves, dollars per hour."""

    instance_id: int
    machine_id: int
    gpu: str
    url: str
    hourly_cost_usd: float


@dataclass(frozen=True)
class Outputs:
    """What a stack has running; `api_key` never leaves the process."""

    url: str
    model: str
    replicas: list[Replica]
    validated: bool | None
    checks: int
    weights: str
    ca_certificate: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)

    @property
    def hourly_cost_usd(self) -> float:
        """Dollars per hour, all instances together."""
        return round(sum(one.hourly_cost_usd for one in self.replicas), 5)

    @classmethod
    def parse(cls, raw: Mapping[str, Json]) -> Outputs:
        """Read `pulumi stack output --json`; a stack with nothing in it has no replicas."""
        ids = _many(raw.get("instance_id"))
        costs = [float((one or {}).get("total") or 0.0) for one in _many(raw.get("hourly_cost_usd"))]
        machines, gpus, urls = (_many(raw.get(name)) for name in ("machine_id", "gpu", "url"))
        replicas = [
            Replica(
                instance_id=int(id_),
                machine_id=int(_at(machines, n) or 0),
                gpu=str(_at(gpus, n) or ""),
                url=str(_at(urls, n) or ""),
                hourly_cost_usd=float(_at(costs, n) or 0.0),
            )
            for n, id_ in enumerate(ids)
            if id_
        ]
        report = raw.get("validation") or {}
        first = _many(report)[0] if _many(report) else {}
        return cls(
            url=str(urls[0]) if urls else "",
            model=str(raw.get("model") or ""),
            replicas=replicas,
            validated=all(bool(one.get("passed")) for one in _many(report)) if report else None,
            checks=sum(len(one.get("checks") or {}) for one in _many(report)),
            weights=str(first.get("weights") or ""),
            ca_certificate=str(raw.get("ca_certificate") or ""),
            api_key=str(raw.get("api_key") or ""),
        )


def _many(value: Json) -> list[Json]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _at(values: list[Json], index: int) -> Json:
    return values[index] if index < len(values) else None
