"""Steady requests to an endpoint, and their results. Used by bench.attack and tests."""

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import urllib3

from harness.wait import until

BODY = {"query": "deep learning", "documents": ["deep learning is fun", "pizza"]}
TIMEOUT_S = 120.0


class LoadEndpoint(Protocol):
    """Address, key and CA file of an endpoint. A change of `key` applies to the next request."""

    @property
    def url(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def ca(self) -> str: ...


@dataclass(frozen=True)
class RequestResult:
    """One request: its time, its failure ("" if none), and the server's name from the header X-Upstream."""

    took_s: float
    failure: Any
    upstream: str = ""


class LoadGenerator:
    """Sends `per_s` requests per second in total, from some threads, during a block; see `results`."""

    def __init__(
        self, endpoint: LoadEndpoint, *, per_s: float = 80.0, threads: int = 8, headers: Mapping[str, str] | None = None
    ) -> None:
        self._endpoint, self._headers = endpoint, headers or {}
        self._pause_s = threads / per_s
        ca = endpoint.ca or None
        self._pool = urllib3.PoolManager(maxsize=threads, ca_certs=ca, retries=False, timeout=TIMEOUT_S)
        self.results: list[RequestResult] = []
        self._end = threading.Event()
        delays_s = (number / per_s for number in range(threads))  # spread evenly, not all threads at once
        self._threads = [threading.Thread(target=self._run, args=(delay_s,), daemon=True) for delay_s in delays_s]

    def _run(self, delay_s: float) -> None:
        self._end.wait(delay_s)
        next_at = time.monotonic()
        while not self._end.is_set():
            self.results.append(self._request())
            # after an outage, catch up by 1 s of requests only
            next_at = max(next_at + self._pause_s, time.monotonic() - 1)
            self._end.wait(max(0.0, next_at - time.monotonic()))

    def _request(self) -> RequestResult:
        headers = {"Authorization": f"Bearer {self._endpoint.key}", **self._headers}
        start, upstream = time.perf_counter(), ""
        try:
            url = f"{self._endpoint.url}/rerank"
            response = self._pool.request("POST", url, json=BODY, headers=headers, redirect=False)
            upstream = response.headers.get("x-upstream", "")
            ok = response.status == 200 and len(json.loads(response.data)["results"]) == len(BODY["documents"])
            failure: Any = "" if ok else response.status
        except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError) as error:
            failure = f"{type(error).__name__}: {error}"[:200]
        return RequestResult(time.perf_counter() - start, failure, upstream)

    def __enter__(self) -> "LoadGenerator":
        self._start = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the load. A second call does nothing."""
        if not self._end.is_set():
            self._end.set()
            for thread in self._threads:
                thread.join()
            self.rate_per_s = len(self.results) / (time.monotonic() - self._start)

    def wait_for_requests(self, count: int) -> None:
        """Wait until `count` further requests have ended."""
        target = len(self.results) + count
        until(lambda: len(self.results) >= target, within_s=TIMEOUT_S)

    @property
    def failures(self) -> list[Any]:
        return [result.failure for result in self.results if result.failure]

    @property
    def by_upstream(self) -> Counter[str]:
        return Counter(result.upstream for result in self.results)

    def p99_ms(self) -> float:
        return sorted(result.took_s for result in self.results)[int(len(self.results) * 0.99)] * 1000

    def __str__(self) -> str:
        return (
            f"{len(self.results)} requests, {self.rate_per_s:.0f}/s, p99 {self.p99_ms():.0f} ms, "
            f"{len(self.failures)} failed {Counter(self.failures) or ''}"
        )
