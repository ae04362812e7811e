"""How often each endpoint may be called. One Pacer per plugin process, shared by all its threads; asked by `client`.

Vast.ai limits each endpoint by a least interval between calls (docs: "Rate limits and errors"; below: `threshold` of
its API descriptions, in seconds) and search to 10 calls per minute. Callers of one endpoint wait in a queue.
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


# With 0.2 s more each: what leaves in time may arrive closer to the call before it.
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
    """Who waits for one endpoint, when its last calls left, and until when it is held."""

    sent: deque[float]
    waiting: list[tuple[int, int]] = field(default_factory=list)
    busy: bool = False
    held_until: float = float("-inf")


class Pacer:
    """Makes a caller wait until its endpoint may be called again: in the order they ask, but repeated calls first."""

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

    def wait(self, endpoint: str, *, again: bool = False) -> float:
        """Block until `endpoint` may be called; return the seconds waited. Unlimited endpoints return at once.

        `again`: a call that was refused, and goes before those that were not made yet.
        """
        queue = self._queues.get(endpoint)
        if queue is None:
            return 0.0
        asked_at = self._clock()
        ticket = (0 if again else 1, next(self._tickets))
        with self._turn:
            heapq.heappush(queue.waiting, ticket)
            self._turn.wait_for(lambda: not queue.busy and queue.waiting[0] == ticket)
            heapq.heappop(queue.waiting)
            queue.busy = True
        try:
            while (left := self._due(endpoint) - self._clock()) > 0:
                self._sleep(left)
            queue.sent.append(self._clock())  # when it really leaves: a sleep may be long
        finally:
            with self._turn:
                queue.busy = False
                self._turn.notify_all()
        return queue.sent[-1] - asked_at

    def queue_length(self, endpoint: str) -> int:
        """Return how many wait for an endpoint, the one whose turn it is among them."""
        queue = self._queues[endpoint]
        with self._turn:
            return len(queue.waiting) + queue.busy

    def hold(self, endpoint: str, seconds: float) -> None:
        """Let nobody call an endpoint for so long: it has just said that it is called too often."""
        queue = self._queues.get(endpoint)
        if queue is not None:
            queue.held_until = max(queue.held_until, self._clock() + seconds)

    def _due(self, endpoint: str) -> float:
        queue, limit = self._queues[endpoint], self._limits[endpoint]
        full = len(queue.sent) == limit.calls
        return max(queue.held_until, queue.sent[0] + limit.per_s if full else float("-inf"))
