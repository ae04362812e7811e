"""Prometheus metrics of the proxy. Used by `proxy`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS = {
    "retries": "Requests sent to the stack again",
    "rereads": "Times the stack's outputs were read again",
    "moves": "Times the stack changed address, key or CA",
}


class Metrics:
    """Requests by operation and status, their durations, and the events of `upstream`."""

    def __init__(self, events: Mapping[str, int]) -> None:
        self.events = events
        self.in_flight = self.documents = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def count(self, operation: str, status: int, duration_s: float) -> None:
        """Count a finished request."""
        self._requests[operation, status] += 1
        if operation == "rerank":
            self._buckets[bisect_left(BOUNDS_S, duration_s)] += 1
            self._sum_s += duration_s

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests by operation and status")
        for (operation, status), count in sorted(self._requests.items()):
            yield f'rerank_proxy_requests_total{{operation="{operation}",status="{status}"}} {count}'
        yield from _head("rerank_seconds", "histogram", "Duration of a rerank request in seconds")
        total = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self._buckets, strict=True):
            total += count
            yield f'rerank_proxy_rerank_seconds_bucket{{le="{bound}"}} {total}'
        yield f"rerank_proxy_rerank_seconds_sum {self._sum_s:.6f}"
        yield f"rerank_proxy_rerank_seconds_count {total}"
        yield from _head("in_flight", "gauge", "Requests in progress")
        yield f"rerank_proxy_in_flight {self.in_flight}"
        for name, help_text, value in [
            ("documents", "Scored documents", self.documents),
            *((name, text, self.events[name]) for name, text in EVENTS.items()),
        ]:
            yield from _head(f"{name}_total", "counter", help_text)
            yield f"rerank_proxy_{name}_total {value}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP rerank_proxy_{name} {text}"
    yield f"# TYPE rerank_proxy_{name} {kind}"
