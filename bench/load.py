"""The load of the serving benchmark: users in a closed loop on /rerank. Called by `bench.serving`.

libcurl sends the requests of all users from one thread, so that this process uses little of the CPU that a local server
needs for itself.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import ssl
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

import certifi
import pycurl

WORDS = (
    *("deep", "learning", "network", "model", "neural", "data", "weather", "city", "river", "bread", "stone", "light"),
    *("market", "engine", "garden", "window", "letter", "music", "winter", "paper", "summer", "forest"),
)
WARM_UP_S = 0.5
TIMEOUT_S = 120
MAX_ANSWER_BYTES = 64 << 20
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


class User:
    """Sends one request at a time on a kept connection."""

    def __init__(self, target: BenchTarget, pairs: int) -> None:
        self.pairs = pairs
        self.curl = curl = pycurl.Curl()
        curl.setopt(pycurl.URL, f"{target.url}/rerank")
        # libcurl would wait for an answer to "Expect" before it sends a large body
        headers = [f"Authorization: Bearer {target.key}", "Content-Type: application/json", "Expect:"]
        curl.setopt(pycurl.HTTPHEADER, headers)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.unsetopt(pycurl.CAPATH)
        curl.setopt(pycurl.CAINFO, target.ca or ssl.get_default_verify_paths().cafile or certifi.where())
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.TIMEOUT, TIMEOUT_S)
        curl.setopt(pycurl.MAXFILESIZE, MAX_ANSWER_BYTES)

    def send(self, multi: pycurl.CurlMulti, body: bytes) -> None:
        self.answer = BytesIO()
        self.curl.setopt(pycurl.WRITEDATA, self.answer)
        self.curl.setopt(pycurl.POSTFIELDS, body)
        multi.add_handle(self.curl)

    def finish(self, multi: pycurl.CurlMulti) -> tuple[float, str]:
        """End the request; return its latency in ms, and why its answer is wrong ("": it is not)."""
        multi.remove_handle(self.curl)
        status = self.curl.getinfo(pycurl.RESPONSE_CODE)
        is_ranking = status == 200 and self.answer.getvalue().count(b'"relevance_score"') == self.pairs
        failure = "" if is_ranking else f"HTTP {status} without {self.pairs} scores"
        return self.curl.getinfo(pycurl.TOTAL_TIME) * 1000, failure


def run(target: BenchTarget, *, pairs: int, words: int, users: int, seconds: float, number: int) -> Measurement:
    """Load a target with `users` requests in flight, after a warm-up.

    The measurement lasts `seconds`, or longer if fewer than `users` requests have ended: a large batch may take longer.
    """
    make_body, multi = _bodies(target.model, pairs, words), pycurl.CurlMulti()
    by_handle = {user.curl: user for user in (User(target, pairs) for _ in range(users))}
    for user in by_handle.values():
        user.send(multi, make_body())
    ms, failures = list[float](), list[str]()
    start = time.perf_counter() + WARM_UP_S
    while (took_s := time.perf_counter() - start) < seconds or len(ms) + len(failures) < users:
        multi.perform()
        _, answered, failed = multi.info_read()
        for curl, error in [*((curl, "") for curl in answered), *((curl, text) for curl, _, text in failed)]:
            user = by_handle[curl]
            latency_ms, wrong = user.finish(multi)
            if took_s >= 0 and (failure := error or wrong):
                failures.append(failure)
            elif took_s >= 0:
                ms.append(latency_ms)
            user.send(multi, make_body())
        if not answered and not failed:
            multi.select(1.0)
    multi.close()
    return Measurement(target.name, pairs, users, number, took_s, tuple(ms), tuple(failures))


def _bodies(model: str, pairs: int, words: int) -> Callable[[], bytes]:
    """Return a function that returns a request with a new query, so that no pair repeats. Its documents are made here,
    before the measurement."""
    rng = random.Random(next(SERIAL))
    texts = [json.dumps([" ".join(rng.choices(WORDS, k=words)) for _ in range(pairs)]) for _ in range(PREPARED)]
    name = json.dumps(model)

    def make_body() -> bytes:
        number = next(SERIAL)
        return f'{{"model":{name},"query":"what is {number}?","documents":{texts[number % PREPARED]}}}'.encode()

    return make_body
