"""What a stack remembers between runs, as tags in its backend: since when it drifts, when it expires, since when fewer
replicas are needed.

Tags are kept by every backend (a bucket, a folder, Pulumi Cloud), need no lock and are no part of the state. Where a
backend has none, nothing is remembered and the commands say so. Times are ISO 8601, UTC.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ops.engine import Pulumi
from ops.exits import OpsError

Json = Any
DRIFT_SINCE = "ops:drift-since"
EXPIRES = "ops:expires"
LULL = "ops:lull"


def get(pulumi: Pulumi, name: str) -> datetime | None:
    """Return the time that was kept, or None."""
    try:
        return datetime.fromisoformat(_text(pulumi, name))
    except ValueError:
        return None


def set_time(pulumi: Pulumi, name: str, when: datetime) -> bool:
    """Keep a time; False, with a line on stderr, where the backend does not take it."""
    return _set(pulumi, name, when.isoformat(timespec="seconds"))


def get_object(pulumi: Pulumi, name: str) -> dict[str, Json]:
    """Return the figures that were kept, {} for none."""
    try:
        found = json.loads(_text(pulumi, name))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def set_object(pulumi: Pulumi, name: str, value: Mapping[str, Json]) -> bool:
    """Keep some figures, as `set_time` does."""
    return _set(pulumi, name, json.dumps(value))


def delete(pulumi: Pulumi, name: str) -> None:
    """Keep it no longer."""
    if _text(pulumi, name):
        pulumi.ask(pulumi.stack.remove_tag, name)


def _text(pulumi: Pulumi, name: str) -> str:
    try:
        return pulumi.ask(pulumi.stack.list_tags).get(name, "")
    except OpsError:
        return ""


def _set(pulumi: Pulumi, name: str, text: str) -> bool:
    try:
        pulumi.ask(pulumi.stack.set_tag, name, text)
    except OpsError as error:
        print(f"warning: the stack's tag {name} could not be written: {error}", file=sys.stderr)
        return False
    return True
