"""What the benches are told and what they found, as records. Used by `serving`, `provision`, `local_vllm`, `plots`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
WIDTHS = (1, 8, 32)
PLAIN, PACED, FEW_THREADS = "pacing off", "published pacing", "four threads"


@dataclass(frozen=True)
class Target:
    """An endpoint to measure. `ca` is the file of a CA certificate, `dph` dollars per hour. The key is not shown."""

    name: str
    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    ca: str | None = None
    dph: float | None = None


@dataclass(frozen=True)
class Load:
    """How a target is loaded: pairs in a request, words in a document, requests in flight, rounds, seconds of each.

    Each of `pairs` is measured with each of `users`. One batch size unless told: `make bench` shall not take longer.
    """

    pairs: tuple[int, ...] = (32,)
    words: int = 30
    users: tuple[int, ...] = WIDTHS
    rounds: int = 3
    seconds: float = 10.0

    def describe(self, targets: int) -> str:
        """Say how many measurements this is with so many targets, and how long they take at least."""
        cells = self.rounds * len(self.pairs) * len(self.users) * targets
        return f"{cells} measurements of {self.seconds:g} s, {cells * self.seconds / 60:.1f} minutes or more"


@dataclass(frozen=True)
class Cell:
    """One target at one batch size and width in one round: latencies in ms of what was answered, and what failed."""

    target: str
    pairs: int
    users: int
    round: int
    took_s: float
    ms: tuple[float, ...]
    failures: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.ms) / self.took_s


@dataclass(frozen=True)
class Figure:
    """What one target did at one batch size and width.

    `ratio`: its rate by that of the first target at the same batch size and width, the median of the rounds.
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
    usd_per_million_pairs: float | None


@dataclass(frozen=True)
class Fleet:
    """One fleet's life: seconds for each operation, API calls by kind in `up` and in a refresh preview."""

    replicas: int
    variant: str
    up_s: float
    preview_s: float | None
    destroy_s: float
    up_calls: Mapping[str, int]
    preview_calls: Mapping[str, int]
