"""How many replicas a fleet should have: a pure function of samples, limits and prices.

Called by ops.scale and bench.scale.

Up at once by what two samples ask for; down only where it pays: a replica that is not needed costs as much as a boot
after `idle_s`, and a fleet goes down to the most that was needed in that time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Why = Literal["limits", "price", "budget", "load", "idle", "enough", "unknown"]


@dataclass(frozen=True)
class Sample:
    """The whole fleet: pairs in flight and, of these, queued; p95 of an answer; pairs answered a second.

    None: the servers do not say. Only `in_flight` decides; the rest is for people.
    """

    at_s: float
    in_flight: float
    queue: float = 0.0
    p95_s: float | None = None
    pairs_per_s: float | None = None


@dataclass(frozen=True)
class LoadTarget:
    """What the load is held against. The defaults are those that `python -m bench scale` chooses.

    `in_flight`: pairs in flight that one replica should have. `samples`: so many have to be above it. `growth`: a fleet
    grows to at most so many times itself at once, since what has queued up during a boot asks for too much.
    `boot_usd`: what a boot costs, download and time.
    """

    in_flight: float = 32.0
    samples: int = 2
    growth: float = 1.5
    boot_usd: float = 0.08

    def idle_s(self, replica_usd_h: float) -> float:
        """Return after how many seconds a replica that is not needed has cost as much as a boot."""
        return self.boot_usd / replica_usd_h * 3600 if replica_usd_h > 0 else math.inf

    def need(self, sample: Sample) -> int:
        return math.ceil(sample.in_flight / self.in_flight)


DEFAULT = LoadTarget()


@dataclass(frozen=True)
class ScaleLimits:
    """What binds a fleet now, the schedule's word included: replicas, and dollars per hour for all of them together.

    `growth_usd_h`: how many dollars per hour a load may add, where the budget of the month binds.
    """

    least: int = 1
    most: int = 1
    max_hourly_usd: float | None = None
    growth_usd_h: float | None = None


@dataclass(frozen=True)
class Lull:
    """Since when fewer replicas are needed than there are, and the most that were needed since."""

    since_s: float
    needed: int


@dataclass(frozen=True)
class Decision:
    """How many replicas there should be, why in a word and in a sentence, and the lull to remember for the next one."""

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
    """Return what to do. `samples`: the newest last, all with `present` replicas; `lull`: of the decision before.

    `replica_usd_h`: what the dearest replica costs per hour, 0 where that is not known.
    """
    most, bound = _most(limits, replica_usd_h)
    least = min(limits.least, most)
    if not least <= present <= most:
        wanted = min(max(present, least), most)
        why: Why = "price" if bound and present > most else "limits"
        return Decision(
            wanted, why, f"{bound or f'{limits.least} to {limits.most} are allowed now'}, {present} are there"
        )
    recent = samples[-target.samples :]
    if len(recent) < target.samples or present == 0:
        return Decision(present, "unknown", f"{len(recent)} of {target.samples} samples say what the load is", lull)
    needs = [target.need(one) for one in recent]
    said = f"{recent[-1].in_flight:.0f} pairs in flight, {target.in_flight:g} for each replica"
    if min(needs) > present:
        payable = present + _times(limits.growth_usd_h, replica_usd_h, most)
        wanted = min(*needs, math.ceil(present * target.growth), most, payable)
        if wanted > present:
            return Decision(wanted, "load", f"{said}, in {len(recent)} samples: {min(needs)} are needed")
        if most > present:
            return Decision(present, "budget", f"{said}, but the month's budget pays for no more")
        return Decision(present, "price" if bound else "limits", f"{said}, but {bound or f'{most} are the most'}")
    needed = max(*needs, least, lull.needed if lull else 0)
    if needed >= present:
        return Decision(present, "enough", said)
    lull = Lull(lull.since_s if lull else recent[-1].at_s, needed)
    idle_s, waited_s = target.idle_s(replica_usd_h), recent[-1].at_s - lull.since_s
    if waited_s >= idle_s:
        return Decision(needed, "idle", f"{said}: for {waited_s / 60:.0f} minutes {needed} were enough")
    left = "its price is not known" if math.isinf(idle_s) else f"a boot costs {idle_s / 60:.0f} minutes of a replica"
    return Decision(present, "enough", f"{said}: {needed} are enough for {waited_s / 60:.0f} minutes, but {left}", lull)


def _most(limits: ScaleLimits, replica_usd_h: float) -> tuple[int, str]:
    """Return the most replicas, and in words what bounds them where it is the price."""
    payable = _times(limits.max_hourly_usd, replica_usd_h, limits.most)
    if payable == limits.most:
        return limits.most, ""
    return payable, f"${limits.max_hourly_usd:g}/h pays for {payable} at ${replica_usd_h:.4f}/h"


def _times(usd_h: float | None, replica_usd_h: float, most: int) -> int:
    """Return how many replicas so many dollars pay for; `most` without a bound, or where a price is not known."""
    if usd_h is None or replica_usd_h <= 0:
        return most
    return math.floor(min(max(usd_h, 0.0) / replica_usd_h + 1e-9, most))
