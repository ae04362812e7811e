"""The load of the serving bench: users in a closed loop on /rerank. Called by `bench.serving`."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.load import Load

WORDS = (
    *("deep", "learning", "network", "model", "neural", "data", "weather", "city", "river", "bread", "stone", "light"),
    *("market", "engine", "garden", "window", "letter", "music", "winter", "paper", "summer", "forest"),
)
WARM_UP_S = 0.5
SERIAL = itertools.count()


@dataclass(frozen=True)
class BenchTarget:
    """An endpoint to measure. `ca` is the file of a CA certificate, `dph` dollars per hour, `pid` the process that
    clients talk to, where that is on this machine. The key is not shown."""

    name: str
    url: str
    model: str
    key: str = field(default="", repr=False)
    ca: str = ""
    dph: float | None = None
    pid: int = 0


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
        return len(self.ms) / self.took_s

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.ms or (math.nan,))


def run(target: BenchTarget, *, pairs: int, words: int, users: int, seconds: float, number: int) -> Cell:
    """Load a target with `users` requests in flight, after a warm-up.

    It lasts `seconds`, and longer until as many requests have ended as are in flight: a batch that takes longer than
    that would seem never to be answered.
    """
    with Load(target, per_s=math.inf, threads=users, body=lambda: _texts(target.model, pairs, words)) as load:
        time.sleep(WARM_UP_S)
        warm, start = len(load.ended), time.perf_counter()
        time.sleep(seconds)
        load.more(warm + users - len(load.ended))
        took_s, counted = time.perf_counter() - start, load.ended[warm:]
    ms = tuple(one.took_s * 1000 for one in counted if not one.failure)
    failures = tuple(str(one.failure) for one in counted if one.failure)
    return Cell(target.name, pairs, users, number, took_s, ms, failures)


def _texts(model: str, pairs: int, words: int) -> Mapping[str, Any]:
    """Return a request with texts of its own, so that no cache answers."""
    dice = random.Random(next(SERIAL))
    texts = [" ".join(dice.choices(WORDS, k=words)) for _ in range(pairs)]
    return {"model": model, "query": f"what is {dice.choice(WORDS)}?", "documents": texts}
