"""Values that a stack keeps between runs, as tags in its backend: start of drift, expiry time, lull, sent notices.

Buckets, folders and Pulumi Cloud support tags. Tags need no lock and are not part of the state. If a backend has no
tags, nothing is kept, and a failed write is a warning. Times are ISO 8601, UTC.
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
    """Return a tag's value, or ""."""
    try:
        return str(pulumi.call(pulumi.stack.list_tags).get(name, ""))
    except (OpsError, ValueError):
        return ""


def get_time(pulumi: Pulumi, name: str) -> datetime | None:
    """Return a tag's value as a time, or None."""
    try:
        return datetime.fromisoformat(get_text(pulumi, name))
    except ValueError:
        return None


def set_time(pulumi: Pulumi, name: str, when: datetime) -> bool:
    """Set a tag to a time; see `set_text`."""
    return set_text(pulumi, name, when.isoformat(timespec="seconds"))


def set_text(pulumi: Pulumi, name: str, text: str) -> bool:
    """Set a tag to one line of text; if the backend refuses it, print a warning to stderr and return False."""
    try:
        pulumi.call(pulumi.stack.set_tag, name, text)
    except OpsError as error:
        print(f"warning: the stack's tag {name} could not be written: {error}", file=sys.stderr)
        return False
    return True


def delete(pulumi: Pulumi, name: str) -> None:
    if get_text(pulumi, name):
        pulumi.call(pulumi.stack.remove_tag, name)
