"""The target number of replicas of a fleet: a pure function of samples, limits and prices.

Called by ops.scale and bench.scale. The fleet grows at once if two samples demand it. A replica is
removed after it was unneeded for `idle_s`, in which it costs as much as a boot; the new size is the highest need then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Why = Literal["limits", "price", "budget", "load", "idle", "enough", "unknown"]


@dataclass(frozen=True)
class Sample:
    """Load of the fleet: pairs in flight and, of these, queued; p95 of the latency; answered pairs per second.

    None: unknown. Decisions use only `in_flight`; the other fields are for display.
    """

    at_s: float
    in_flight: float
    queue: float = 0.0
    p95_s: float | None = None
    pairs_per_s: float | None = None


@dataclass(frozen=True)
class LoadTarget:
    """Thresholds of a decision. The defaults come from `python -m bench scale`.

    `in_flight`: target of pairs in flight per replica. `samples`: how many must be above it. `growth`: largest factor
    of one step, because pairs queued during a boot overstate the need. `boot_usd`: cost of a boot, download and time.
    """

    in_flight: float = 32.0
    samples: int = 2
    growth: float = 1.5
    boot_usd: float = 0.08

    def idle_s(self, replica_usd_h: float) -> float:
        """Return the seconds after which an unneeded replica has cost as much as a boot."""
        return self.boot_usd / replica_usd_h * 3600 if replica_usd_h > 0 else math.inf

    def need(self, sample: Sample) -> int:
        return math.ceil(sample.in_flight / self.in_flight)


DEFAULT = LoadTarget()


@dataclass(frozen=True)
class ScaleLimits:
    """Current limits of a fleet, with the schedule: replicas, and dollars per hour for all of them together.

    `growth_usd_h`: dollars per hour that the month's budget allows in addition; None without a budget.
    """

    least: int = 1
    most: int = 1
    max_hourly_usd: float | None = None
    growth_usd_h: float | None = None


@dataclass(frozen=True)
class Lull:
    """The start of a time with too many replicas, and the highest need since then."""

    since_s: float
    needed: int


@dataclass(frozen=True)
class Decision:
    """The target number of replicas, the reason as a word and a sentence, and the lull for the next decision."""

    replicas: int
    why: Why
    reason: str
    lull: Lull | None = None


def decide(
    samples: Sequence[Sample],
    present: int,
    limits: ScaleLimits,
    *,
    replica_usd_h: float,
    target: LoadTarget = DEFAULT,
    lull: Lull | None = None,
) -> Decision:
    """Return the decision. `samples`: the newest last, all with `present` replicas; `lull`: of the last decision.

    `replica_usd_h`: hourly cost of the most expensive replica, 0 if unknown.
    """
    most, price_limit = _most(limits, replica_usd_h)
    least = min(limits.least, most)
    if not least <= present <= most:
        replicas = min(max(present, least), most)
        why: Why = "price" if price_limit and present > most else "limits"
        limit = price_limit or f"{limits.least} to {limits.most} are allowed now"
        return Decision(replicas, why, f"{limit}, {present} are running")
    recent = samples[-target.samples :]
    if len(recent) < target.samples or present == 0:
        return Decision(present, "unknown", f"the load is known from {len(recent)} of {target.samples} samples", lull)
    needs = [target.need(sample) for sample in recent]
    load = f"{recent[-1].in_flight:.0f} pairs in flight, {target.in_flight:g} for each replica"
    if min(needs) > present:
        payable = present + _affordable(limits.growth_usd_h, replica_usd_h, most)
        replicas = min(*needs, math.ceil(present * target.growth), most, payable)
        if replicas > present:
            return Decision(replicas, "load", f"{load}, in {len(recent)} samples: {min(needs)} are needed")
        if most > present:
            return Decision(present, "budget", f"{load}, but the month's budget pays for no more")
        limit = price_limit or f"{most} are the most"
        return Decision(present, "price" if price_limit else "limits", f"{load}, but {limit}")
    needed = max(*needs, least, lull.needed if lull else 0)
    if needed >= present:
        return Decision(present, "enough", load)
    lull = Lull(lull.since_s if lull else recent[-1].at_s, needed)
    idle_s, waited_s = target.idle_s(replica_usd_h), recent[-1].at_s - lull.since_s
    if waited_s >= idle_s:
        return Decision(needed, "idle", f"{load}: for {waited_s / 60:.0f} minutes {needed} were enough")
    but = "its price is not known" if math.isinf(idle_s) else f"a boot costs {idle_s / 60:.0f} minutes of a replica"
    return Decision(present, "enough", f"{load}: {needed} are enough for {waited_s / 60:.0f} minutes, but {but}", lull)


def _most(limits: ScaleLimits, replica_usd_h: float) -> tuple[int, str]:
    """Return the maximum of replicas, and the price limit in words if the price bounds them."""
    payable = _affordable(limits.max_hourly_usd, replica_usd_h, limits.most)
    if payable == limits.most:
        return limits.most, ""
    return payable, f"${limits.max_hourly_usd:g}/h pays for {payable} at ${replica_usd_h:.4f}/h"


def _affordable(usd_h: float | None, replica_usd_h: float, most: int) -> int:
    """Return how many replicas `usd_h` pays for; `most` without a limit or a known price."""
    if usd_h is None or replica_usd_h <= 0:
        return most
    return math.floor(min(max(usd_h, 0.0) / replica_usd_h + 1e-9, most))
