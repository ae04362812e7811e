"""Steady requests against an endpoint, and what came of each. Used by tests of the gateway and of whole stacks."""

import threading
import time
from collections import Counter
from typing import Any, Protocol

import requests

from harness.wait import until

BODY = {"query": "deep learning", "documents": ["deep learning is fun", "pizza"]}


class Endpoint(Protocol):
    """Where clients go: address, key, and the file with the CA to trust. A key that is set anew is used at once."""

    url: str
    key: str
    ca: str


class Load:
    """So many requests a second in all, from some threads, for the length of a block.

    `failures`: what came instead of 200. `by_upstream`: answers by the server that names itself in X-Upstream.
    """

    def __init__(
        self, endpoint: Endpoint, *, per_s: float = 80.0, threads: int = 8, headers: dict[str, str] | None = None
    ) -> None:
        self._endpoint = endpoint
        self._pause_s = threads / per_s
        self._headers = headers or {}
        self.failures: list[Any] = []
        self.latencies_s: list[float] = []
        self.by_upstream: Counter[str] = Counter()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self._lock = threading.Lock()

    def _run(self) -> None:
        session = requests.Session()
        session.trust_env = False
        at = time.monotonic()
        while not self._end.is_set():
            began = time.monotonic()
            failure, name = self._request(session)
            with self._lock:
                self.latencies_s.append(time.monotonic() - began)
                self.by_upstream[name] += 1
                if failure:
                    self.failures.append(failure)
            at = max(at + self._pause_s, time.monotonic() - 1)  # what an outage held up is not sent all at once
            self._end.wait(max(0.0, at - time.monotonic()))

    def _request(self, session: requests.Session) -> tuple[Any, str]:
        endpoint = self._endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}", **self._headers}
        try:
            answer = session.post(f"{endpoint.url}/rerank", json=BODY, headers=headers, verify=endpoint.ca, timeout=30)
        except requests.RequestException as error:
            return repr(error), ""
        failure = "" if answer.status_code == 200 else answer.status_code
        return failure, str(answer.headers.get("x-upstream", ""))

    def __enter__(self) -> "Load":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; once more does nothing."""
        if self._end.is_set():
            return
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.rate_per_s = len(self.latencies_s) / (time.monotonic() - self._began)

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        target = len(self.latencies_s) + count
        until(lambda: len(self.latencies_s) >= target)

    def p99_ms(self) -> float:
        """Return the latency that all but one answer in a hundred stay under."""
        return sorted(self.latencies_s)[int(len(self.latencies_s) * 0.99)] * 1000

    def __str__(self) -> str:
        return (
            f"{len(self.latencies_s)} requests, {self.rate_per_s:.0f}/s, p99 {self.p99_ms():.0f} ms, "
            f"{len(self.failures)} failed {Counter(self.failures) or ''}"
        )
