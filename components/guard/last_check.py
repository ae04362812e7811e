"""The answer to a gateway's last check: it stands for the next where vLLM has served a request since. Used by `gate`.

A check queues behind requests: under load it says less than they do, and later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CHECK = b"x-guard-check"  # a request by the management key that is a check: a gateway's word
ASKED_EVERY_S = 60.0  # scores are looked at that often, however busy vLLM is


@dataclass
class LastCheck:
    """A check that passed, and when: asked of vLLM, answered, and when another request was last served."""

    body: bytes = field(default=b"", repr=False)
    answer: bytes = field(default=b"", repr=False)
    asked_at: float = 0.0
    answered_at: float = 0.0
    served_at: float = 0.0

    def passed(self, body: bytes, answer: bytes, now: float) -> None:
        self.body, self.answer, self.asked_at, self.answered_at = body, answer, now, now

    def again(self, body: bytes, now: float) -> bytes | None:
        """Return the answer to the same check, if a request was served since the last; None if vLLM is to be asked."""
        if body != self.body or self.served_at <= self.answered_at or now > self.asked_at + ASKED_EVERY_S:
            return None
        self.answered_at = now
        return self.answer
