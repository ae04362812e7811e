"""The load of the serving bench: threads in a closed loop on /rerank. Called by `bench.serving`.

Closed: each user sends its next request when its last one is answered.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from dataclasses import dataclass, field

import urllib3

WORDS = (
    *("deep", "learning", "network", "model", "neural", "data", "weather", "city", "river", "bread", "stone", "light"),
    *("market", "engine", "garden", "window", "letter", "music", "winter", "paper", "summer", "forest"),
)
TIMEOUT_S = 120.0
WARM_UP_S = 0.5
POLL_S = 0.02
SERIAL = itertools.count()


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


def run(target: Target, *, pairs: int, words: int, users: int, seconds: float, number: int) -> Cell:
    """Load a target with `users` requests in flight, after a warm-up.

    It lasts `seconds`, and longer until as many requests have ended as are in flight: a batch that takes longer than
    that would seem never to be answered.
    """
    pool = urllib3.PoolManager(maxsize=users, ca_certs=target.ca, retries=False, timeout=TIMEOUT_S)
    ended: list[tuple[float, str]] = []  # ms, and what was wrong
    stop = threading.Event()

    def user() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            failure = _failure(pool, target, pairs, words)
            ended.append(((time.perf_counter() - began) * 1000, failure))

    threads = [threading.Thread(target=user, daemon=True) for _ in range(users)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_S)
    warm, start = len(ended), time.perf_counter()
    time.sleep(seconds)
    while len(ended) - warm < users and time.perf_counter() - start < seconds + TIMEOUT_S:
        time.sleep(POLL_S)
    took_s, counted = time.perf_counter() - start, ended[warm:]
    stop.set()
    for thread in threads:
        thread.join(2 * TIMEOUT_S)
    ms = tuple(took for took, failure in counted if not failure)
    return Cell(target.name, pairs, users, number, took_s, ms, tuple(failure for _, failure in counted if failure))


def _failure(pool: urllib3.PoolManager, target: Target, pairs: int, words: int) -> str:
    """Send one request, with texts of its own, so that no cache answers; return what is wrong with the answer."""
    dice = random.Random(next(SERIAL))
    texts = [" ".join(dice.choices(WORDS, k=words)) for _ in range(pairs)]
    body = {"model": target.model, "query": f"what is {dice.choice(WORDS)}?", "documents": texts}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {target.key}"} if target.key else {})
    try:
        answer = pool.request("POST", f"{target.url}/rerank", body=json.dumps(body), headers=headers, redirect=False)
        right = answer.status == 200 and len(json.loads(answer.data)["results"]) == pairs
    except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "" if right else f"HTTP {answer.status}"
