"""What a stack remembers between runs, as tags of the stack in its backend: since when it drifts, when it expires.

Tags are kept by every backend (a bucket, a folder, Pulumi Cloud), need no lock and are no part of the state. Where a
backend has none, nothing is remembered and the commands say so. Times are ISO 8601, UTC.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from ops.engine import Pulumi
from ops.exits import OpsError

DRIFT_SINCE = "ops:drift-since"
EXPIRES = "ops:expires"


@dataclass(frozen=True)
class StackTags:
    """The tags of one stack."""

    pulumi: Pulumi

    def get(self, name: str) -> datetime | None:
        """Return the time that was kept, or None."""
        try:
            text = self.pulumi.tags().get(name, "")
            return datetime.fromisoformat(text) if text else None
        except (OpsError, ValueError):
            return None

    def get_or_set(self, name: str, now: datetime) -> datetime | None:
        """Return the time that was kept; keep `now` if none was. None where the backend keeps no tags."""
        return self.get(name) or (now if self.set(name, now) else None)

    def set(self, name: str, when: datetime) -> bool:
        """Keep a time; False, with a line on stderr, where the backend does not take it."""
        try:
            self.pulumi.tag(name, when.isoformat(timespec="seconds"))
        except OpsError as error:
            print(f"warning: the stack's tag {name} could not be written: {error}", file=sys.stderr)
            return False
        return True

    def delete(self, name: str) -> None:
        """Keep it no longer."""
        if self.get(name) is not None:
            self.pulumi.untag(name)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
