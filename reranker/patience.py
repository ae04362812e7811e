"""Retry policy: deadlines, waits and statuses that are retried. Used by `transport` and `upstream`."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass

# Statuses that are retried. All requests of this package are idempotent. A timeout or a 504 is not retried: the server
# may still be computing the answer.
RETRIED_STATUSES = frozenset({429, 502, 503})


@dataclass(frozen=True)
class Patience:
    """Retry policy, in seconds. `timeout_s` limits one request (None: no limit of its own), `deadline_s` a whole call.

    The wait between two attempts doubles from `first_wait_s` to `longest_wait_s`, and is shortened at random by up to
    half, so that clients do not retry at the same moment. A longer Retry-After of the server replaces it.
    """

    connect_s: float = 5.0
    timeout_s: float | None = None
    deadline_s: float = 60.0
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0

    def wait_s(self, attempt: int, chance: float, server_s: float | None) -> float:
        """Return the wait after attempt number `attempt` (from 0). `chance`: 0..1. `server_s`: Retry-After."""
        backoff = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt, 30))
        return max(backoff * (1 - chance / 2), server_s or 0.0)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Return Retry-After in seconds, from seconds or a date (RFC 9110, 10.2.3); None if invalid."""
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None
