"""Rate limits of the API's endpoints. One Pacer per plugin process, shared by all its threads; used by `client`.

Vast.ai requires a minimum interval between calls of each endpoint (docs: "Rate limits and errors"; below: `threshold`
of its API descriptions, in seconds) and allows 10 searches per minute. Callers of one endpoint wait in a queue.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limit:
    """At most `calls` in any window of `per_s` seconds."""

    calls: int
    per_s: float


# Each limit has 0.2 s added, because two calls may arrive closer together than they were sent.
PUBLISHED: Mapping[str, Limit] = {
    "search": Limit(10, 60.2),
    "rent": Limit(1, 4.7),
    "destroy": Limit(1, 3.2),
    "show": Limit(1, 2.2),
    "list": Limit(1, 1.2),
    "manage": Limit(1, 1.2),
    "bid": Limit(1, 5.7),
    "logs": Limit(1, 1.2),
    "prices": Limit(1, 2.2),  # not published: as `show`
    "charges": Limit(1, 3.2),  # not published: as the slowest read
}
OFF: Mapping[str, Limit] = {}


@dataclass
class _Queue:
    """The waiting callers of one endpoint, the times of its last calls, and the end of its hold."""

    sent: deque[float]
    waiting: list[tuple[int, int]] = field(default_factory=list)
    busy: bool = False
    held_until: float = float("-inf")


class Pacer:
    """Delays each call until the endpoint's limit allows it: first in, first out, but retries before new calls."""

    def __init__(
        self,
        limits: Mapping[str, Limit] = PUBLISHED,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._turn = threading.Condition()
        self._tickets = itertools.count()
        self._queues = {name: _Queue(deque(maxlen=limit.calls)) for name, limit in limits.items()}

    def wait(self, endpoint: str, *, retry: bool = False) -> float:
        """Block until `endpoint` may be called; return the seconds waited. An endpoint without limit does not wait."""
        queue = self._queues.get(endpoint)
        if queue is None:
            return 0.0
        queued_at = self._clock()
        ticket = (0 if retry else 1, next(self._tickets))
        with self._turn:
            heapq.heappush(queue.waiting, ticket)
            self._turn.wait_for(lambda: not queue.busy and queue.waiting[0] == ticket)
            heapq.heappop(queue.waiting)
            queue.busy = True
        try:
            while (left_s := self._due_at(endpoint) - self._clock()) > 0:
                self._sleep(left_s)
            queue.sent.append(self._clock())  # the real time: a sleep may take longer
        finally:
            with self._turn:
                queue.busy = False
                self._turn.notify_all()
        return queue.sent[-1] - queued_at

    def queue_length(self, endpoint: str) -> int:
        """Return the number of callers that wait for an endpoint."""
        queue = self._queues[endpoint]
        with self._turn:
            return len(queue.waiting) + queue.busy

    def hold(self, endpoint: str, seconds: float) -> None:
        """Block all calls of an endpoint for some seconds, after it responded 429."""
        queue = self._queues.get(endpoint)
        if queue is not None:
            queue.held_until = max(queue.held_until, self._clock() + seconds)

    def _due_at(self, endpoint: str) -> float:
        queue, limit = self._queues[endpoint], self._limits[endpoint]
        full = len(queue.sent) == limit.calls
        return max(queue.held_until, queue.sent[0] + limit.per_s if full else float("-inf"))
