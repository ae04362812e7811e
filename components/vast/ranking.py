"""Ranks offers by price, one-off pull cost, time to ready and reliability.

Called by the OfferQuery resource, and by a rental that searches again. Pure: offers in, ranked candidates out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from components.vast.json_values import Json
from components.vast.models import Offer, gpus
from components.vast.throughput import Estimate

Prefer = Literal["cheapest", "fastest", "balanced", "value"]

# The one-off cost of a pull is spread over a day, to compare it with a price per hour.
PULL_SPREAD_H = 24.0
# Share of the advertised bandwidth that a pull reaches: layers unpack while they download, registries throttle.
PULL_EFFICIENCY = 0.6
MBIT_PER_GB = 8000.0 / PULL_EFFICIENCY  # advertised Mbit per pulled GB
START_S = 90.0  # assumed time to start the container, load the weights onto the GPU and score the first pair


def pull_mbps(gb: float, within_s: float) -> float:
    """Return the advertised bandwidth, in Mbit/s, that pulls `gb` in `within_s`."""
    return gb * MBIT_PER_GB / within_s


@dataclass(frozen=True)
class Candidate:
    """An offer with its pull cost, its estimated time to ready, and the estimated speed of its machine."""

    offer: Offer
    pull_cost_usd: float
    ready_s: float
    estimate: Estimate | None = None

    @classmethod
    def of(cls, offer: Offer, pull_gb: float, start_s: float = START_S) -> Candidate:
        """Estimate cost and time for a machine that pulls `pull_gb` and then starts in `start_s`."""
        return cls(
            offer=offer,
            pull_cost_usd=pull_gb * offer.inet_down_cost_usd_gb,
            ready_s=pull_gb * MBIT_PER_GB / max(offer.inet_down_mbps, 1.0) + start_s,
        )

    def summary(self) -> dict[str, Json]:
        """Return the offer for policies and previews, with Vast.ai's names; and pull cost and time to ready."""
        offer = self.offer
        return {
            "ask_contract_id": offer.ask_id,
            "machine_id": offer.machine_id,
            "gpu_name": offer.gpu_name,
            "geolocation": offer.geolocation,
            "hosting_type": offer.raw.get("hosting_type"),
            "dph_total": offer.dph_total_usd,
            "num_gpus": offer.num_gpus,
            "pull_cost_usd": round(self.pull_cost_usd, 4),
            "ready_s": round(self.ready_s),
        } | (self._speed(self.estimate) if self.estimate else {})

    def _speed(self, estimate: Estimate) -> dict[str, Json]:
        usd = estimate.usd_per_million(self.offer.dph_total_usd)
        values = {"estimate": estimate.basis}
        return values if usd is None else values | {"pairs_per_s": round(estimate.speed, 1), "usd_per_million": usd}

    @property
    def hourly_usd(self) -> float:
        """Dollars per hour for GPU and disk, with the pull cost spread over a day."""
        return self.offer.dph_total_usd + self.pull_cost_usd / PULL_SPREAD_H

    def __str__(self) -> str:
        offer = self.offer
        usd = self.estimate.usd_per_million(offer.dph_total_usd) if self.estimate else None
        speed = f", {self.estimate}" if self.estimate else ""
        return (
            f"offer {offer.ask_id}: {gpus(offer.num_gpus, offer.gpu_name)} on machine {offer.machine_id}, "
            f"{offer.place}, ${offer.dph_total_usd:.4f}/h, pull once ${self.pull_cost_usd:.2f}, ready in about "
            f"{minutes(self.ready_s)}{speed}{'' if usd is None else f', ${usd:.4f} per million pairs'}"
        )


def minutes(seconds: float) -> str:
    """Format a duration: 45 s, 3 min 20 s, 1 h 5 min."""
    total = round(seconds)
    if total < 120:
        return f"{total} s"
    if total < 7200:
        return f"{total // 60} min" + (f" {total % 60} s" if total % 60 and total < 600 else "")
    return f"{total // 3600} h {total % 3600 // 60} min"


def rank(candidates: Iterable[Candidate], prefer: Prefer) -> list[Candidate]:
    """Sort candidates, best first; equal candidates by price, then by offer id, so that the order is repeatable.

    * cheapest: $/h with the pull cost spread over a day, divided by reliability (an hour on a failed host costs twice).
    * fastest:  estimated time to ready, in steps of 15 s; within a step by price.
    * balanced: the value of cheapest, times 1 + time to ready in hours: half an hour counts like 50 % more $/h.
    * value:    the value of cheapest, divided by the estimated pairs/s; offers without an estimate come last.
    """
    return sorted(candidates, key=lambda candidate: _score(candidate, prefer))


def _score(candidate: Candidate, prefer: Prefer) -> tuple[float, float, int]:
    cost = candidate.hourly_usd / max(candidate.offer.reliability, 0.5)
    match prefer:
        case "cheapest":
            first = cost
        case "fastest":
            first = float(round(candidate.ready_s / 15.0))
        case "balanced":
            first = cost * (1.0 + candidate.ready_s / 3600.0)
        case "value":
            first = cost / candidate.estimate.speed if candidate.estimate and candidate.estimate.speed else math.inf
        case _:
            assert_never(prefer)
    return (first, cost, candidate.offer.ask_id)


def distinct_machines(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Keep the best offer of each machine, because a machine that failed is not rented again in the same run."""
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        best.setdefault(candidate.offer.machine_id, candidate)
    return list(best.values())
