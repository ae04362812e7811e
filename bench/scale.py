"""`python -m bench scale`: a day of load against fixed fleets and against `ops scale`, simulated. Called by `bench`.

A replica answers requests one after another at a fixed rate. What waits is what has queued up because there is more
than the fleet can do, and what a queue of random arrivals costs below that (Sakasegawa's formula for M/D/c). Each look
at the fleet sees a random number of requests around the mean. A boot takes its minutes, and with a bad host first, the
deadline after which one is given up as well (as `bench failover` measures it). Nothing decides while a boot runs.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.scaling import LoadTarget, Lull, Sample, ScaleLimits, decide
from components.vast.rental_spec import Deadlines
from ops.report import table as markdown

DEFAULT = LoadTarget()
DAY_S = 86400
STEP_S = 15.0  # a sample, and a step of the simulation
READS = 5  # looks at the fleet for each sample
LEAST_REFUSED = 5e-5  # a share that is shown as 0.00 % or 0.01 %


@dataclass(frozen=True)
class World:
    """What a replica does and costs: boot and price are those of docs/cost.md, the rate is an assumption."""

    pairs_per_s: float = 400.0
    pairs_per_request: int = 32
    boot_s: float = 315.0
    boot_usd: float = 0.076
    bad_host: float = 0.05
    bad_host_s: float = Deadlines().stall_s
    replica_usd_h: float = 0.0863
    max_wait_s: float = 15.0  # who would wait longer is refused, as the gateway does after retry_for_s
    seed: int = 1

    @property
    def request_s(self) -> float:
        return self.pairs_per_request / self.pairs_per_s


@dataclass(frozen=True)
class Curve:
    """A day: low at night, a peak in the afternoon, bursts of some minutes. Rates in pairs a second."""

    night: float = 120.0
    peak: float = 1800.0
    bursts: int = 6
    burst_times: float = 1.6
    burst_s: float = 900.0
    seed: int = 1

    def rates(self) -> list[float]:
        """Return the rate in each step of the day."""
        dice = random.Random(self.seed)
        starts = [dice.uniform(8, 20) * 3600 for _ in range(self.bursts)]
        rates = []
        for step in range(int(DAY_S / STEP_S)):
            at = step * STEP_S
            shape = max(math.cos((at / 3600 - 14) / 24 * 2 * math.pi), -0.5)  # flat from 22 to 6
            rate = self.night + (self.peak - self.night) * (shape + 0.5) / 1.5
            burst = any(start <= at < start + self.burst_s for start in starts)
            rates.append(rate * dice.uniform(0.9, 1.1) * (self.burst_times if burst else 1))
        return rates


@dataclass(frozen=True)
class Result:
    """A day of one fleet: dollars, the wait that 95 % of pairs stay under, the share refused, replicas by step."""

    fleet: str
    usd: float
    p95_wait_s: float
    refused: float
    boots: int
    replicas: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """A target that was tried."""

    target: LoadTarget
    usd: float
    p95_wait_s: float
    refused: float


def read_csv(path: Path) -> list[float]:
    """Return the rate in each step of a file of time_s,pairs_per_s, which holds until its next line.

    Raises ValueError that names the line.
    """
    points: list[tuple[float, float]] = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                time_s, rate = map(float, row)
            except ValueError:
                if number == 1:  # the head
                    continue
                said = f"{path}, line {number}: is {','.join(row)!r}"
                raise ValueError(f"{said}; accepted: time_s,pairs_per_s") from None
            if not (math.isfinite(rate) and rate >= 0 and (not points or time_s > points[-1][0])):
                raise ValueError(f"{path}, line {number}: times have to rise, rates be at least 0")
            points.append((time_s, rate))
    if len(points) < 2:
        raise ValueError(f"{path}: has {len(points)} lines of figures; two at least are needed")
    return [
        rate for (at, rate), (end, _) in itertools.pairwise(points) for _ in range(max(round((end - at) / STEP_S), 1))
    ]


class Fixed:
    """A fleet that stays as it is."""

    def __init__(self, replicas: int) -> None:
        self.replicas, self.boots, self.name = replicas, 0, f"{replicas} fixed"

    def look(self, _at_s: float, _in_flight: float) -> None:
        """Change nothing."""


class Scaled:
    """A fleet that `decide` sizes; `paid`: replicas that are billed, those that boot among them."""

    def __init__(self, world: World, limits: ScaleLimits, target: LoadTarget) -> None:
        self.world, self.limits, self.target = world, limits, target
        self.name, self.replicas, self.boots = "ops scale", max(limits.least, 1), 0
        self.booting, self.ready_at_s = 0, 0.0
        self.samples: list[Sample] = []
        self.lull: Lull | None = None
        self.dice = random.Random(world.seed)

    def look(self, at_s: float, in_flight: float) -> None:
        """Take a sample and decide, unless a boot is under way."""
        if self.booting:
            if at_s < self.ready_at_s:
                return
            self.replicas, self.booting, self.samples = self.replicas + self.booting, 0, []
        size = self.world.pairs_per_request
        seen = sum(size * _poisson(self.dice, in_flight / size) for _ in range(READS)) / READS
        self.samples = [*self.samples, Sample(at_s, seen)][-self.target.samples :]
        price = self.world.replica_usd_h
        made = decide(self.samples, self.replicas, self.limits, replica_usd_h=price, target=self.target, lull=self.lull)
        self.lull = made.lull
        if made.replicas < self.replicas:
            self.replicas, self.samples = made.replicas, []
        elif more := made.replicas - self.replicas:
            bad = any(self.dice.random() < self.world.bad_host for _ in range(more))
            self.booting, self.boots = more, self.boots + more
            self.ready_at_s = at_s + self.world.boot_s + (self.world.bad_host_s if bad else 0)


def simulate(world: World, rates: Sequence[float], fleet: Fixed | Scaled) -> Result:
    """Return what became of a load."""
    backlog = usd = refused = 0.0
    waits: list[tuple[float, float]] = []
    sizes = []
    for step, rate in enumerate(rates):
        booting = fleet.booting if isinstance(fleet, Scaled) else 0
        usd += (fleet.replicas + booting) * world.replica_usd_h * STEP_S / 3600
        capacity = fleet.replicas * world.pairs_per_s
        after = max(backlog + (rate - capacity) * STEP_S, 0.0)
        over = max(after - capacity * world.max_wait_s, 0.0)
        wait_s = (backlog + after - over) / 2 / capacity + _random_wait(world, rate, fleet.replicas)
        backlog, refused = after - over, refused + over
        waits.append((wait_s, rate * STEP_S - over))
        sizes.append(fleet.replicas)
        fleet.look(step * STEP_S, min(rate, capacity) * (world.request_s + wait_s))
    # a boot's time is paid above; what is left of its price is the download
    usd += fleet.boots * (world.boot_usd - world.replica_usd_h * world.boot_s / 3600)
    return Result(fleet.name, usd, _p95(waits), refused / (sum(rates) * STEP_S), fleet.boots, tuple(sizes))


def compare(world: World, rates: Sequence[float], most: int, target: LoadTarget = DEFAULT) -> list[Result]:
    """Return a row for each fixed fleet of 1 to `most`, and the last for the one that is scaled."""
    fixed = [simulate(world, rates, Fixed(count)) for count in range(1, most + 1)]
    return [*fixed, simulate(world, rates, Scaled(world, ScaleLimits(1, most), target))]


def best_fixed(results: Sequence[Result]) -> Result | None:
    """Return the cheapest fixed fleet that waits and refuses no more than the scaled one, which is the last."""
    scaled = results[-1]
    as_good = [one for one in results[:-1] if one.p95_wait_s <= scaled.p95_wait_s and one.refused <= scaled.refused]
    return min(as_good, key=lambda one: one.usd, default=None)


def verdict(results: Sequence[Result]) -> str:
    """Say in a sentence whether the scaled fleet is cheaper than the best fixed one."""
    scaled, fixed = results[-1], best_fixed(results)
    if fixed is None:
        return f"No fixed fleet of at most {len(results) - 1} waits and refuses as little as ops scale."
    share = scaled.usd / fixed.usd - 1
    return (
        f"ops scale costs ${scaled.usd:.2f}, the cheapest fixed fleet that waits and refuses no more, {fixed.fleet}, "
        f"${fixed.usd:.2f}: {abs(share):.0%} {'less' if share < 0 else 'MORE'}."
    )


def choose(world: World, days: Sequence[Sequence[float]], most: int) -> list[Choice]:
    """Return each target that is tried, with what all days cost under it, their worst p95 wait, the most refused."""
    found = []
    for in_flight, growth in itertools.product((16.0, 24.0, 32.0, 40.0, 48.0, 64.0), (1.25, 1.5, 2.0)):
        target = LoadTarget(in_flight=in_flight, growth=growth)
        seen = [simulate(world, rates, Scaled(world, ScaleLimits(1, most), target)) for rates in days]
        worst = max(one.p95_wait_s for one in seen), max(one.refused for one in seen)
        found.append(Choice(target, sum(one.usd for one in seen), *worst))
    return found


def choice_table(choices: Sequence[Choice]) -> str:
    """Return the targets as Markdown, the cheapest of those that refuse nothing first."""
    ranked = sorted(choices, key=lambda one: (one.refused > LEAST_REFUSED, one.usd))
    rows = [
        (f"{one.target.in_flight:g}", f"{one.target.growth:g}", f"${one.usd:.2f}", f"{one.p95_wait_s:.2f} s",
         f"{one.refused:.2%}")
        for one in ranked
    ]  # fmt: skip
    return markdown(("pairs in flight", "growth", "cost", "worst p95 wait", "most refused"), rows)


def table(results: Sequence[Result]) -> str:
    """Return the rows as Markdown."""
    rows = [
        (one.fleet, f"${one.usd:.2f}", f"{one.p95_wait_s:.2f} s", f"{one.refused:.2%}", str(one.boots))
        for one in results
    ]
    return markdown(("fleet", "cost", "p95 wait", "refused", "boots"), rows)


def _random_wait(world: World, rate: float, replicas: int) -> float:
    """Return the mean wait in seconds that random arrivals cause in a fleet that can do it all."""
    busy = min(rate / (replicas * world.pairs_per_s), 0.98)
    return float(busy ** (math.sqrt(2 * (replicas + 1)) - 1) / (replicas * (1 - busy)) / 2 * world.request_s)


def _poisson(dice: random.Random, mean: float) -> int:
    if mean > 50:
        return max(round(dice.gauss(mean, math.sqrt(mean))), 0)
    count, product, limit = 0, dice.random(), math.exp(-mean)
    while product > limit:
        count, product = count + 1, product * dice.random()
    return count


def _p95(waits: Sequence[tuple[float, float]]) -> float:
    left = sum(weight for _, weight in waits) * 0.05
    for wait_s, weight in sorted(waits, reverse=True):
        left -= weight
        if left <= 0:
            return wait_s
    return 0.0
