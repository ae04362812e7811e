"""Steady requests against an endpoint, and what came of each. Used by the serving bench and tests of whole stacks."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import urllib3

from harness.wait import until

BODY = {"query": "deep learning", "documents": ["deep learning is fun", "pizza"]}
TIMEOUT_S = 120.0


class LoadEndpoint(Protocol):
    """Where clients go: address, key, and the file with the CA to trust. A key that is set anew is used at once."""

    @property
    def url(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def ca(self) -> str: ...


@dataclass(frozen=True)
class Ended:
    """One request: how long it took, what was wrong ("" for nothing), the server that names itself in X-Upstream."""

    took_s: float
    failure: Any
    upstream: str = ""


class Load:
    """So many requests a second in all, from some threads, for the length of a block; `ended`: what came of each.

    With `per_s` at infinity each thread sends its next request when its last one is answered.
    """

    def __init__(
        self,
        endpoint: LoadEndpoint,
        *,
        per_s: float = 80.0,
        threads: int = 8,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Mapping[str, Any]] = lambda: BODY,
    ) -> None:
        self._endpoint, self._headers, self._body = endpoint, headers or {}, body
        self._pause_s = threads / per_s
        self._pool = urllib3.PoolManager(
            maxsize=threads, ca_certs=endpoint.ca or None, retries=False, timeout=TIMEOUT_S
        )
        self.ended: list[Ended] = []
        self._end = threading.Event()
        turns = (number / per_s for number in range(threads))  # evenly, not all threads at once
        self._threads = [threading.Thread(target=self._run, args=(turn_s,), daemon=True) for turn_s in turns]

    def _run(self, turn_s: float) -> None:
        self._end.wait(turn_s)
        at = time.monotonic()
        while not self._end.is_set():
            self.ended.append(self._request())
            at = max(at + self._pause_s, time.monotonic() - 1)  # what an outage held up is not sent all at once
            self._end.wait(max(0.0, at - time.monotonic()))

    def _request(self) -> Ended:
        body, headers = self._body(), {"Authorization": f"Bearer {self._endpoint.key}", **self._headers}
        began, upstream = time.perf_counter(), ""
        try:
            answer = self._pool.request(
                "POST", f"{self._endpoint.url}/rerank", json=body, headers=headers, redirect=False
            )
            upstream = answer.headers.get("x-upstream", "")
            right = answer.status == 200 and len(json.loads(answer.data)["results"]) == len(body["documents"])
            failure: Any = "" if right else answer.status
        except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError) as error:
            failure = f"{type(error).__name__}: {error}"[:200]
        return Ended(time.perf_counter() - began, failure, upstream)

    def __enter__(self) -> "Load":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; once more does nothing."""
        if not self._end.is_set():
            self._end.set()
            for thread in self._threads:
                thread.join()
            self.rate_per_s = len(self.ended) / (time.monotonic() - self._began)

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        target = len(self.ended) + count
        until(lambda: len(self.ended) >= target, within_s=TIMEOUT_S)

    @property
    def failures(self) -> list[Any]:
        """What came instead of an answer with a score for each document."""
        return [one.failure for one in self.ended if one.failure]

    @property
    def by_upstream(self) -> Counter[str]:
        return Counter(one.upstream for one in self.ended)

    def p99_ms(self) -> float:
        """Return the latency that all but one answer in a hundred stay under."""
        return sorted(one.took_s for one in self.ended)[int(len(self.ended) * 0.99)] * 1000

    def __str__(self) -> str:
        return (
            f"{len(self.ended)} requests, {self.rate_per_s:.0f}/s, p99 {self.p99_ms():.0f} ms, "
            f"{len(self.failures)} failed {Counter(self.failures) or ''}"
        )
