"""Caches the answer to a gateway's last health check. It is reused if vLLM has served a request since. Used by `gate`.

Under load a check waits behind requests; a served request then shows earlier that vLLM works.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CHECK = b"x-guard-check"  # a gateway sets it on its health checks, with the management key
MAX_AGE_S = 60.0  # even a busy vLLM gets a real check this often


@dataclass
class LastCheck:
    """The last check that passed. `checked_at`: vLLM answered it. `answered_at`: the guard last answered it.
    `served_at`: another request was served."""

    body: bytes = field(default=b"", repr=False)
    answer: bytes = field(default=b"", repr=False)
    checked_at: float = 0.0
    answered_at: float = 0.0
    served_at: float = 0.0

    def store(self, body: bytes, answer: bytes, now: float) -> None:
        self.body, self.answer, self.checked_at, self.answered_at = body, answer, now, now

    def cached_answer(self, body: bytes, now: float) -> bytes | None:
        """Return the answer to the same check if a request was served since the last one; None if vLLM must answer."""
        if body != self.body or self.served_at <= self.answered_at or now > self.checked_at + MAX_AGE_S:
            return None
        self.answered_at = now
        return self.answer
