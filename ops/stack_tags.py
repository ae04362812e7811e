"""What a stack remembers between runs, as tags of the stack in its backend: since when it drifts, when it expires.

Tags are kept by every backend (a bucket, a folder, Pulumi Cloud), need no lock and are no part of the state. Where a
backend has none, nothing is remembered and the commands say so. Times are ISO 8601, UTC.
"""

from __future__ import annotations

import sys
from datetime import datetime

from ops.engine import Pulumi
from ops.exits import OpsError

DRIFT_SINCE = "ops:drift-since"
EXPIRES = "ops:expires"


def get(pulumi: Pulumi, name: str) -> datetime | None:
    """Return the time that was kept, or None."""
    try:
        text = pulumi.ask(pulumi.stack.list_tags).get(name, "")
        return datetime.fromisoformat(text) if text else None
    except (OpsError, ValueError):
        return None


def set_time(pulumi: Pulumi, name: str, when: datetime) -> bool:
    """Keep a time; False, with a line on stderr, where the backend does not take it."""
    try:
        pulumi.ask(pulumi.stack.set_tag, name, when.isoformat(timespec="seconds"))
    except OpsError as error:
        print(f"warning: the stack's tag {name} could not be written: {error}", file=sys.stderr)
        return False
    return True


def delete(pulumi: Pulumi, name: str) -> None:
    """Keep it no longer."""
    if get(pulumi, name) is not None:
        pulumi.ask(pulumi.stack.remove_tag, name)
