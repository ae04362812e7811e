"""What the proxy counts, as Prometheus reads it. Used by `proxy`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS = {
    "retries": "Requests that were sent to the stack again",
    "rereads": "Times that the stack's outputs were read again",
    "moves": "Times that the stack had another address, key or CA",
}


class Metrics:
    """Requests by operation and status, how long they took, and the events of `upstream`."""

    def __init__(self, events: Mapping[str, int]) -> None:
        self.events = events
        self.in_flight = self.documents = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._took = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def count(self, operation: str, status: int, took_s: float) -> None:
        """Count a request that was answered."""
        self._requests[operation, status] += 1
        if operation == "rerank":
            self._took[bisect_left(BOUNDS_S, took_s)] += 1
            self._sum_s += took_s

    def text(self) -> str:
        """Return all of it in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests by operation and status of the answer")
        for (operation, status), count in sorted(self._requests.items()):
            yield f'rerank_proxy_requests_total{{operation="{operation}",status="{status}"}} {count}'
        yield from _head("rerank_seconds", "histogram", "How long a rerank took, seconds")
        so_far = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self._took, strict=True):
            so_far += count
            yield f'rerank_proxy_rerank_seconds_bucket{{le="{bound}"}} {so_far}'
        yield f"rerank_proxy_rerank_seconds_sum {self._sum_s:.6f}"
        yield f"rerank_proxy_rerank_seconds_count {so_far}"
        yield from _head("in_flight", "gauge", "Requests under way")
        yield f"rerank_proxy_in_flight {self.in_flight}"
        for name, help_text, value in [
            ("documents", "Documents that were scored", self.documents),
            *((name, text, self.events[name]) for name, text in EVENTS.items()),
        ]:
            yield from _head(f"{name}_total", "counter", help_text)
            yield f"rerank_proxy_{name}_total {value}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP rerank_proxy_{name} {text}"
    yield f"# TYPE rerank_proxy_{name} {kind}"
