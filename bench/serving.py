"""`python -m bench serving`: pairs per second and dollars per million pairs of endpoints. Called by `bench.__main__`.

Each target gets each batch size at each number of requests in flight. Targets take turns within each round, and what is
compared is compared within a round, so that what else the machine does meanwhile falls on all of them alike.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import BenchTarget, Cell, run
from components.vast.throughput import usd_per_million
from ops.report import table as markdown


@dataclass(frozen=True)
class Workload:
    """How a target is loaded: pairs in a request, words in a document, requests in flight, rounds, seconds of each."""

    pairs: tuple[int, ...] = (8, 32, 128)
    words: int = 30
    users: tuple[int, ...] = (1, 8, 32)
    rounds: int = 3
    seconds: float = 10.0

    def describe(self, targets: int) -> str:
        """Say how many measurements this is with so many targets, and how long they take at least."""
        cells = self.rounds * len(self.pairs) * len(self.users) * targets
        return f"{cells} measurements of {self.seconds:g} s, {cells * self.seconds / 60:.1f} minutes or more"


@dataclass(frozen=True)
class Figure:
    """What one target did at one batch size and width.

    `ratio`: its rate by that of the first target at the same batch size and width, the median of the rounds; `added`:
    by how much its median latency is longer. `low` and `high`: see `interval`.
    """

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


def measure(targets: Sequence[BenchTarget], load: Workload) -> list[Figure]:
    """Load the targets, their order turned by one each round; return a figure for each, batch size and width."""
    sys.stderr.write(f"{load.describe(len(targets))}\n")
    cells = []
    for number in range(load.rounds):
        turn = number % len(targets)
        for pairs, users, target in itertools.product(load.pairs, load.users, (*targets[turn:], *targets[:turn])):
            cell = run(target, pairs=pairs, words=load.words, users=users, seconds=load.seconds, number=number)
            cells.append(cell)
            where = f"round {number + 1}/{load.rounds}, {pairs} pairs, {users} in flight, {target.name}"
            sys.stderr.write(f"{where}: {cell.rate:.1f} requests/s {''.join(cell.failures[:1])}\n")
    return figures(cells, targets, load)


def figures(cells: Sequence[Cell], targets: Sequence[BenchTarget], load: Workload) -> list[Figure]:
    """Return what the cells of all rounds say: by batch size, then width, then target."""
    found = []
    for pairs, users in itertools.product(load.pairs, load.users):
        alike = [cell for cell in cells if (cell.pairs, cell.users) == (pairs, users)]
        first = {cell.round: cell for cell in alike if cell.target == targets[0].name}
        for target in targets:
            own = [cell for cell in alike if cell.target == target.name]
            ratios = [cell.rate / first[cell.round].rate for cell in own if first[cell.round].ms] or [0.0]
            added = [cell.p50_ms - first[cell.round].p50_ms for cell in own]
            ms = sorted(one for cell in own for one in cell.ms)
            rate = statistics.median(cell.rate for cell in own)
            (ratio_low, ratio_high), (added_low, added_high) = interval(ratios), interval(added)
            figure = Figure(
                target=target.name,
                pairs=pairs,
                users=users,
                requests=len(ms),
                failed=sum(len(cell.failures) for cell in own),
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
            found.append(figure)
    return found


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ordered values by nearest rank; nan for none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a confidence interval, of 95 % or more, of the median by its order statistics; of fewer than 6 values, too
    few for one, the least and the most."""
    ordered, count = sorted(values), len(values)
    outside = max(
        (n for n in range(count) if sum(math.comb(count, k) for k in range(n + 1)) <= 2**count / 40), default=0
    )
    return ordered[outside], ordered[-1 - outside]


def table(found: Sequence[Figure]) -> str:
    """Return the figures as Markdown."""
    compared = len({figure.target for figure in found}) > 1
    priced = any(figure.usd_per_million_pairs is not None for figure in found)
    head = ["target", "pairs a request", "in flight", "requests/s", "pairs/s", "p50", "p95", "p99", "failed"]
    head += ["rate by the first target's (95 %)", "beyond its p50 (95 %)"] * compared + ["$ per million pairs"] * priced
    rows = []
    for one in found:
        row = [one.target, str(one.pairs), str(one.users), f"{one.requests_per_s:.1f}", f"{one.pairs_per_s:.0f}"]
        row += [f"{ms:.1f} ms" for ms in (one.p50_ms, one.p95_ms, one.p99_ms)]
        row.append(f"{one.failed} of {one.requests + one.failed}")
        if compared:
            row.append(f"{one.ratio:.3f} ({one.ratio_low:.3f} to {one.ratio_high:.3f})")
            row.append(f"{one.added_ms:.2f} ms ({one.added_low_ms:.2f} to {one.added_high_ms:.2f})")
        row += [f"{one.usd_per_million_pairs:.4f}" if one.usd_per_million_pairs is not None else "-"] * priced
        rows.append(row)
    return markdown(head, rows)
