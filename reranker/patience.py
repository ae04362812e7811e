"""How long to wait, and how often to ask again: pure arithmetic of time. Used by `transport`."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass

# Statuses that say "not now": asking again may be answered. Every request of this package is safe to repeat; one that
# ran out of time is not repeated (nor is 504, which says that of a server behind), since it may be computed still.
NOT_NOW = frozenset({429, 502, 503})


@dataclass(frozen=True)
class Patience:
    """Seconds: for a connection, for one request (None: as long as the call), for a whole call with all its batches and
    repetitions.

    Between two tries it waits `first_wait_s`, doubling up to `longest_wait_s`, less up to half of it by chance, so that
    many clients do not come back at the same moment; or what the server says in Retry-After, where that is longer.
    """

    connect_s: float = 5.0
    timeout_s: float | None = None
    deadline_s: float = 60.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0

    def wait_s(self, attempt: int, chance: float, asked_s: float | None) -> float:
        """Return the wait after try number `attempt` (from 0); `chance` is 0..1, `asked_s` the server's Retry-After."""
        backoff = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt, 30))
        return max(backoff * (1 - chance / 2), asked_s or 0.0)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Return Retry-After in seconds: given as such or as a date (RFC 9110, 10.2.3). None for what is neither."""
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None
