"""`python -m bench serving`: pairs per second and dollars per million pairs of endpoints. Called by `bench.__main__`.

Every target is measured at every batch size and number of requests in flight. Targets take turns within a round and are
compared within a round, so that other load on the machine affects all of them equally.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import BenchTarget, Measurement, run
from components.vast.throughput import usd_per_million
from ops.report import table as markdown


@dataclass(frozen=True)
class Workload:
    """Pairs per request, words per document, requests in flight, rounds, and minimum seconds of a measurement."""

    pairs: tuple[int, ...] = (8, 32, 128)
    words: int = 30
    users: tuple[int, ...] = (1, 8, 32)
    rounds: int = 3
    seconds: float = 10.0

    def describe(self, targets: int) -> str:
        """Return the number of measurements of this many targets, and their minimum time, as text."""
        count = self.rounds * len(self.pairs) * len(self.users) * targets
        return f"{count} measurements of {self.seconds:g} s, {count * self.seconds / 60:.1f} minutes or more"


@dataclass(frozen=True)
class ServingFigure:
    """One target at one batch size and number of users. `ratio`: its rate divided by the first target's, the median of
    the rounds. `added`: its median latency minus the first target's. `low` and `high`: see `interval`."""

    target: str
    pairs: int
    users: int
    requests: int
    failed: int
    requests_per_s: float
    pairs_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    added_ms: float
    added_low_ms: float
    added_high_ms: float
    usd_per_million_pairs: float | None


def measure(targets: Sequence[BenchTarget], load: Workload) -> list[ServingFigure]:
    """Measure the targets in an order that rotates by one every round; see `summarize` for the result."""
    sys.stderr.write(f"{load.describe(len(targets))}\n")
    measurements = []
    for number in range(load.rounds):
        shift = number % len(targets)
        for pairs, users, target in itertools.product(load.pairs, load.users, (*targets[shift:], *targets[:shift])):
            result = run(target, pairs=pairs, words=load.words, users=users, seconds=load.seconds, number=number)
            measurements.append(result)
            title = f"round {number + 1}/{load.rounds}, {pairs} pairs, {users} in flight, {target.name}"
            sys.stderr.write(f"{title}: {result.rate:.1f} requests/s {''.join(result.failures[:1])}\n")
    return summarize(measurements, targets, load)


def summarize(results: Sequence[Measurement], targets: Sequence[BenchTarget], load: Workload) -> list[ServingFigure]:
    """Combine all rounds; return a figure for each batch size, number of users and target, in this order."""
    figures = []
    for pairs, users in itertools.product(load.pairs, load.users):
        group = [cell for cell in results if (cell.pairs, cell.users) == (pairs, users)]
        first = {cell.round: cell for cell in group if cell.target == targets[0].name}
        for target in targets:
            cells = [cell for cell in group if cell.target == target.name]
            ratios = [cell.rate / first[cell.round].rate for cell in cells if first[cell.round].ms] or [0.0]
            added = [cell.p50_ms - first[cell.round].p50_ms for cell in cells]
            ms = sorted(latency for cell in cells for latency in cell.ms)
            rate = statistics.median(cell.rate for cell in cells)
            (ratio_low, ratio_high), (added_low, added_high) = interval(ratios), interval(added)
            figure = ServingFigure(
                target=target.name,
                pairs=pairs,
                users=users,
                requests=len(ms),
                failed=sum(len(cell.failures) for cell in cells),
                requests_per_s=rate,
                pairs_per_s=rate * pairs,
                p50_ms=quantile(ms, 0.50),
                p95_ms=quantile(ms, 0.95),
                p99_ms=quantile(ms, 0.99),
                ratio=statistics.median(ratios),
                ratio_low=ratio_low,
                ratio_high=ratio_high,
                added_ms=statistics.median(added),
                added_low_ms=added_low,
                added_high_ms=added_high,
                usd_per_million_pairs=usd_per_million(target.dph, rate * pairs),
            )
            figures.append(figure)
    return figures


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values by nearest rank; nan if there are none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a confidence interval (95 % or more) of the median by order statistics; of fewer than 6 values, their
    minimum and maximum."""
    ordered, count = sorted(values), len(values)
    ranks = [n for n in range(count) if sum(math.comb(count, k) for k in range(n + 1)) <= 2**count / 40]
    rank = max(ranks, default=0)
    return ordered[rank], ordered[-1 - rank]


def table(figures: Sequence[ServingFigure]) -> str:
    """Return the figures as Markdown."""
    compared = len({figure.target for figure in figures}) > 1
    priced = any(figure.usd_per_million_pairs is not None for figure in figures)
    head = ["target", "pairs a request", "in flight", "requests/s", "pairs/s", "p50", "p95", "p99", "failed"]
    head += ["rate / first target's (95 %)", "p50 - first target's (95 %)"] * compared
    head += ["$ per million pairs"] * priced
    rows = []
    for figure in figures:
        row = [figure.target, str(figure.pairs), str(figure.users)]
        row += [f"{figure.requests_per_s:.1f}", f"{figure.pairs_per_s:.0f}"]
        row += [f"{ms:.1f} ms" for ms in (figure.p50_ms, figure.p95_ms, figure.p99_ms)]
        row.append(f"{figure.failed} of {figure.requests + figure.failed}")
        if compared:
            row.append(f"{figure.ratio:.3f} ({figure.ratio_low:.3f} to {figure.ratio_high:.3f})")
            row.append(f"{figure.added_ms:.2f} ms ({figure.added_low_ms:.2f} to {figure.added_high_ms:.2f})")
        row += [f"{figure.usd_per_million_pairs:.4f}" if figure.usd_per_million_pairs is not None else "-"] * priced
        rows.append(row)
    return markdown(head, rows)
