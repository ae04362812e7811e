"""How often each endpoint may be called. One Pacer per plugin process, shared by all its threads; asked by `client`.

Vast limits each endpoint by a least interval between calls (docs: "Rate limits and errors"; the figures below are the
`threshold` values of its API descriptions, in seconds) and search to 10 calls per minute.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """At most `calls` in any window of `per_s` seconds."""

    calls: int
    per_s: float


PUBLISHED: Mapping[str, Limit] = {
    "search": Limit(10, 60.0),
    "rent": Limit(1, 4.5),
    "destroy": Limit(1, 3.0),
    "show": Limit(1, 2.0),
    "list": Limit(1, 1.0),
    "manage": Limit(1, 1.0),
    "bid": Limit(1, 5.5),
    "logs": Limit(1, 1.0),
}
OFF: Mapping[str, Limit] = {}


class Pacer:
    """Makes a caller wait until its endpoint may be called again; fair to threads in the order they ask."""

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
        self._lock = threading.Lock()
        self._slots: dict[str, deque[float]] = {}

    def wait(self, endpoint: str) -> float:
        """Block until `endpoint` may be called; return the seconds waited. Unlimited endpoints return at once."""
        limit = self._limits.get(endpoint)
        if limit is None:
            return 0.0
        with self._lock:
            now = self._clock()
            slots = self._slots.setdefault(endpoint, deque(maxlen=limit.calls))
            at = now if len(slots) < limit.calls else max(now, slots[0] + limit.per_s)
            slots.append(at)
        if at > now:
            self._sleep(at - now)
        return at - now
