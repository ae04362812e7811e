"""`python -m bench scale`: simulates a day of load on fixed fleets and on `ops scale`. Called by `bench.__main__`.

A replica answers one request at a time at a fixed rate. The wait is the backlog of load above the capacity, plus the
queueing delay of random arrivals (Sakasegawa's formula for M/D/c). Every reading of the load is a random number around
the mean. A boot takes `boot_s`, and with a bad host first also the deadline after which that host is destroyed
(see `bench failover`). No decision is made during a boot.
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
STEP_S = 15.0  # step of the simulation; one sample in each
READS = 5  # readings of the load for each sample
MIN_REFUSED = 5e-5  # a smaller share is printed as 0.00 %


@dataclass(frozen=True)
class SimulationSettings:
    """Speed and price of a replica. Boot and price are from docs/cost.md, the rate is an assumption."""

    pairs_per_s: float = 400.0
    pairs_per_request: int = 32
    boot_s: float = 315.0
    boot_usd: float = 0.076
    bad_host: float = 0.05
    bad_host_s: float = Deadlines().stall_s
    replica_usd_h: float = 0.0863
    max_wait_s: float = 15.0  # longer waits are refused, like the retry_for_s of the gateway
    seed: int = 1

    @property
    def request_s(self) -> float:
        return self.pairs_per_request / self.pairs_per_s


@dataclass(frozen=True)
class Curve:
    """A day: low at night, a peak in the afternoon, bursts of some minutes. Rates in pairs per second."""

    night: float = 120.0
    peak: float = 1800.0
    bursts: int = 6
    burst_times: float = 1.6
    burst_s: float = 900.0
    seed: int = 1

    def rates(self) -> list[float]:
        """Return the rate in each step of the day."""
        rng = random.Random(self.seed)
        starts = [rng.uniform(8, 20) * 3600 for _ in range(self.bursts)]
        rates = []
        for step in range(int(DAY_S / STEP_S)):
            at = step * STEP_S
            shape = max(math.cos((at / 3600 - 14) / 24 * 2 * math.pi), -0.5)  # flat from 22 to 6
            rate = self.night + (self.peak - self.night) * (shape + 0.5) / 1.5
            burst = any(start <= at < start + self.burst_s for start in starts)
            rates.append(rate * rng.uniform(0.9, 1.1) * (self.burst_times if burst else 1))
        return rates


@dataclass(frozen=True)
class FleetDay:
    """A day of one fleet: cost, the 95th percentile of the wait, share of refused pairs, boots, replicas by step."""

    fleet: str
    usd: float
    p95_wait_s: float
    refused: float
    boots: int
    replicas: tuple[int, ...]


@dataclass(frozen=True)
class TargetTrial:
    """A load target: the cost of all days together, the worst p95 wait and the worst share of refused pairs."""

    target: LoadTarget
    usd: float
    p95_wait_s: float
    refused: float


def read_csv(path: Path) -> list[float]:
    """Read lines of time_s,pairs_per_s; return the rate in each step. Raises ValueError with the line number."""
    points: list[tuple[float, float]] = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                time_s, rate = map(float, row)
            except ValueError:
                if number == 1:  # the header
                    continue
                line = ",".join(row)
                raise ValueError(f"{path}, line {number}: is {line!r}; accepted: time_s,pairs_per_s") from None
            is_valid = math.isfinite(time_s) and math.isfinite(rate) and rate >= 0
            if not is_valid or (points and time_s <= points[-1][0]):
                raise ValueError(f"{path}, line {number}: times must increase, rates must be at least 0")
            points.append((time_s, rate))
    if len(points) < 2:
        raise ValueError(f"{path}: has {len(points)} lines of numbers; at least 2 are needed")
    if not any(rate for _, rate in points[:-1]):
        raise ValueError(f"{path}: every rate is 0, so there is nothing to simulate")
    return [
        rate for (at, rate), (end, _) in itertools.pairwise(points) for _ in range(max(round((end - at) / STEP_S), 1))
    ]


class FixedFleet:
    """A fleet of constant size."""

    def __init__(self, replicas: int) -> None:
        self.replicas, self.boots, self.name = replicas, 0, f"{replicas} fixed"

    def observe(self, _at_s: float, _in_flight: float) -> None:
        """Change nothing."""


class ScaledFleet:
    """A fleet whose size `decide` controls. `booting`: replicas that are billed and not ready yet."""

    def __init__(self, settings: SimulationSettings, limits: ScaleLimits, target: LoadTarget) -> None:
        self.settings, self.limits, self.target = settings, limits, target
        self.name, self.replicas, self.boots = "ops scale", max(limits.least, 1), 0
        self.booting, self.ready_at_s = 0, 0.0
        self.samples: list[Sample] = []
        self.lull: Lull | None = None
        self.rng = random.Random(settings.seed)

    def observe(self, at_s: float, in_flight: float) -> None:
        """Take a sample and decide, unless replicas are booting."""
        if self.booting:
            if at_s < self.ready_at_s:
                return
            self.replicas, self.booting, self.samples = self.replicas + self.booting, 0, []
        size = self.settings.pairs_per_request
        mean = sum(size * _poisson(self.rng, in_flight / size) for _ in range(READS)) / READS
        self.samples = [*self.samples, Sample(at_s, mean)][-self.target.samples :]
        usd_h, target, lull = self.settings.replica_usd_h, self.target, self.lull
        decision = decide(self.samples, self.replicas, self.limits, replica_usd_h=usd_h, target=target, lull=lull)
        self.lull = decision.lull
        if decision.replicas < self.replicas:
            self.replicas, self.samples = decision.replicas, []
        elif added := decision.replicas - self.replicas:
            has_bad_host = any(self.rng.random() < self.settings.bad_host for _ in range(added))
            self.booting, self.boots = added, self.boots + added
            self.ready_at_s = at_s + self.settings.boot_s + (self.settings.bad_host_s if has_bad_host else 0)


def simulate(settings: SimulationSettings, rates: Sequence[float], fleet: FixedFleet | ScaledFleet) -> FleetDay:
    """Run a fleet under a load."""
    backlog = usd = refused = 0.0
    waits: list[tuple[float, float]] = []
    sizes = []
    for step, rate in enumerate(rates):
        booting = fleet.booting if isinstance(fleet, ScaledFleet) else 0
        usd += (fleet.replicas + booting) * settings.replica_usd_h * STEP_S / 3600
        capacity = fleet.replicas * settings.pairs_per_s
        after = max(backlog + (rate - capacity) * STEP_S, 0.0)
        over = max(after - capacity * settings.max_wait_s, 0.0)
        wait_s = (backlog + after - over) / 2 / capacity + _random_wait(settings, rate, fleet.replicas)
        backlog, refused = after - over, refused + over
        waits.append((wait_s, rate * STEP_S - over))
        sizes.append(fleet.replicas)
        fleet.observe(step * STEP_S, min(rate, capacity) * (settings.request_s + wait_s))
    # the time of a boot is already paid; the rest of its price is the download
    usd += fleet.boots * (settings.boot_usd - settings.replica_usd_h * settings.boot_s / 3600)
    return FleetDay(fleet.name, usd, _p95(waits), refused / (sum(rates) * STEP_S), fleet.boots, tuple(sizes))


def compare(settings: SimulationSettings, rates: Sequence[float], max_replicas: int) -> list[FleetDay]:
    """Return a result for each fixed fleet of 1 to `max_replicas`, and last for the scaled one."""
    fixed = [simulate(settings, rates, FixedFleet(count)) for count in range(1, max_replicas + 1)]
    return [*fixed, simulate(settings, rates, ScaledFleet(settings, ScaleLimits(1, max_replicas), DEFAULT))]


def best_fixed(results: Sequence[FleetDay]) -> FleetDay | None:
    """Return the cheapest fixed fleet that waits and refuses no more than the scaled one, which is the last."""
    *fixed, scaled = results
    as_good = [day for day in fixed if day.p95_wait_s <= scaled.p95_wait_s and day.refused <= scaled.refused]
    return min(as_good, key=lambda day: day.usd, default=None)


def verdict(results: Sequence[FleetDay]) -> str:
    """Return a sentence that compares the costs of the scaled fleet and the best fixed one."""
    scaled, fixed = results[-1], best_fixed(results)
    if fixed is None:
        return f"No fixed fleet of at most {len(results) - 1} waits and refuses as little as ops scale."
    share = scaled.usd / fixed.usd - 1
    return (
        f"ops scale costs ${scaled.usd:.2f}, the cheapest fixed fleet that waits and refuses no more, {fixed.fleet}, "
        f"${fixed.usd:.2f}: {abs(share):.0%} {'less' if share < 0 else 'MORE'}."
    )


def try_targets(settings: SimulationSettings, days: Sequence[Sequence[float]], max_replicas: int) -> list[TargetTrial]:
    """Simulate some days under different load targets."""
    trials = []
    for in_flight, growth in itertools.product((16.0, 24.0, 32.0, 40.0, 48.0, 64.0), (1.25, 1.5, 2.0)):
        target = LoadTarget(in_flight=in_flight, growth=growth)
        limits = ScaleLimits(1, max_replicas)
        results = [simulate(settings, rates, ScaledFleet(settings, limits, target)) for rates in days]
        worst = max(day.p95_wait_s for day in results), max(day.refused for day in results)
        trials.append(TargetTrial(target, sum(day.usd for day in results), *worst))
    return trials


def target_table(trials: Sequence[TargetTrial]) -> str:
    """Return the load targets as Markdown; targets that refuse nothing come first, then the cheapest."""
    ranked = sorted(trials, key=lambda trial: (trial.refused > MIN_REFUSED, trial.usd))
    rows = [
        (f"{trial.target.in_flight:g}", f"{trial.target.growth:g}", f"${trial.usd:.2f}", f"{trial.p95_wait_s:.2f} s",
         f"{trial.refused:.2%}")
        for trial in ranked
    ]  # fmt: skip
    return markdown(("pairs in flight", "growth", "cost", "worst p95 wait", "most refused"), rows)


def table(results: Sequence[FleetDay]) -> str:
    """Return the results as Markdown."""
    rows = [
        (day.fleet, f"${day.usd:.2f}", f"{day.p95_wait_s:.2f} s", f"{day.refused:.2%}", str(day.boots))
        for day in results
    ]
    return markdown(("fleet", "cost", "p95 wait", "refused", "boots"), rows)


def _random_wait(settings: SimulationSettings, rate: float, replicas: int) -> float:
    """Return the mean wait in seconds that random arrivals cause in a fleet with enough capacity."""
    busy = min(rate / (replicas * settings.pairs_per_s), 0.98)
    return float(busy ** (math.sqrt(2 * (replicas + 1)) - 1) / (replicas * (1 - busy)) / 2 * settings.request_s)


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > 50:
        return max(round(rng.gauss(mean, math.sqrt(mean))), 0)
    count, product, limit = 0, rng.random(), math.exp(-mean)
    while product > limit:
        count, product = count + 1, product * rng.random()
    return count


def _p95(waits: Sequence[tuple[float, float]]) -> float:
    remaining = sum(weight for _, weight in waits) * 0.05
    for wait_s, weight in sorted(waits, reverse=True):
        remaining -= weight
        if remaining <= 0:
            return wait_s
    return 0.0
