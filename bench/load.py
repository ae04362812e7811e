"""The load of the serving benchmark: users in a closed loop on /rerank. Called by `bench.serving`."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.load import LoadGenerator

WORDS = (
    *("deep", "learning", "network", "model", "neural", "data", "weather", "city", "river", "bread", "stone", "light"),
    *("market", "engine", "garden", "window", "letter", "music", "winter", "paper", "summer", "forest"),
)
WARM_UP_S = 0.5
PREPARED = 64  # lists of documents
SERIAL = itertools.count()


@dataclass(frozen=True)
class BenchTarget:
    """An endpoint to measure. `ca`: file of a CA certificate; `dph`: dollars per hour; `pid`: the process that clients
    connect to, 0 if it is on another machine."""

    name: str
    url: str
    model: str
    key: str = field(default="", repr=False)
    ca: str = ""
    dph: float | None = None
    pid: int = 0


@dataclass(frozen=True)
class Measurement:
    """One target, batch size and number of users in one round: latencies of answered requests in ms, and failures."""

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


def run(target: BenchTarget, *, pairs: int, words: int, users: int, seconds: float, number: int) -> Measurement:
    """Load a target with `users` requests in flight, after a warm-up.

    The measurement lasts `seconds`, or longer if fewer than `users` requests have ended: a large batch may take longer.
    """
    rng = random.Random(next(SERIAL))
    texts = [[" ".join(rng.choices(WORDS, k=words)) for _ in range(pairs)] for _ in range(PREPARED)]

    def body() -> Mapping[str, Any]:
        """Return a request with a new query, so that no pair repeats. The texts are made before the measurement, so
        that this work does not slow down a local server."""
        number = next(SERIAL)
        return {"model": target.model, "query": f"what is {number}?", "documents": texts[number % PREPARED]}

    with LoadGenerator(target, per_s=math.inf, threads=users, body=body) as load:
        time.sleep(WARM_UP_S)
        warm_up_count, start = len(load.results), time.perf_counter()
        time.sleep(seconds)
        load.wait_for_requests(warm_up_count + users - len(load.results))
        took_s, results = time.perf_counter() - start, load.results[warm_up_count:]
    ms = tuple(result.took_s * 1000 for result in results if not result.failure)
    failures = tuple(str(result.failure) for result in results if result.failure)
    return Measurement(target.name, pairs, users, number, took_s, ms, failures)
