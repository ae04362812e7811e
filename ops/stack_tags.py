"""What a stack remembers between runs, as tags in its backend: since when it drifts, when it expires, what was told.

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
LULL = "ops:lull"


def get_text(pulumi: Pulumi, name: str) -> str:
    """Return what was kept, or ""."""
    try:
        return str(pulumi.ask(pulumi.stack.list_tags).get(name, ""))
    except (OpsError, ValueError):
        return ""


def get(pulumi: Pulumi, name: str) -> datetime | None:
    """Return the time that was kept, or None."""
    try:
        return datetime.fromisoformat(get_text(pulumi, name))
    except ValueError:
        return None


def set_time(pulumi: Pulumi, name: str, when: datetime) -> bool:
    """Keep a time; False, with a line on stderr, where the backend does not take it."""
    return set_text(pulumi, name, when.isoformat(timespec="seconds"))


def set_text(pulumi: Pulumi, name: str, text: str) -> bool:
    """Keep a text of one line; False, with a line on stderr, where the backend does not take it."""
    try:
        pulumi.ask(pulumi.stack.set_tag, name, text)
    except OpsError as error:
        print(f"warning: the stack's tag {name} could not be written: {error}", file=sys.stderr)
        return False
    return True


def delete(pulumi: Pulumi, name: str) -> None:
    """Keep it no longer."""
    if get_text(pulumi, name):
        pulumi.ask(pulumi.stack.remove_tag, name)
