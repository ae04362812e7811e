"""The ledger of a stack, next to the state. Called by the resources and ops.

It is `.pulumi/ledger/<project>/<stack>` in the backend's folder (one file) or bucket (`ledger_bucket`). There it
survives a replaced server, a lost state and `stack rm`, and all users of the backend share it. Pulumi Cloud stores no
other files: then it is `.local/ledger/` of this checkout, and `ops cost` adds rentals from elsewhere, by the account's
charges.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from components.ledger_file import LedgerFile, NotInBucket
from components.plugin.engine import ENGINE
from components.state_folder import backend_url, state_folder
from components.vast.bill import Month, MonthToDate, month_to_date
from components.vast.instance_cache import SharedRead
from components.vast.ledger import Event, fold

FRESH_S = 300.0
BUCKETS = ("s3://", "gs://", "azblob://")

_MONTHS: dict[str, SharedRead[MonthToDate | None]] = {}


class Ledger(Protocol):
    """Stores the events of a stack; its text is its place."""

    def append(self, event: Event) -> None:
        """Write an event, with the current time if it has none. Raises OSError."""

    def events(self) -> list[Event]:
        """Return the events in their order. Raises OSError."""


def open_ledger(label_base: str, env: Mapping[str, str], folder: Path) -> Ledger:
    """Return the ledger of the stack in a label (project/stack/...). `folder`: that of its Pulumi.yaml."""
    project, stack = label_base.split("/")[:2]
    local = LedgerFile(folder / ".local" / "ledger" / project / f"{stack}.jsonl")
    try:
        if state := state_folder(env, folder):
            return LedgerFile(state / ".pulumi" / "ledger" / project / f"{stack}.jsonl")
        url = backend_url(env, folder)
    except FileNotFoundError:  # a program in another language, whose plugin runs in another folder
        return local
    if url.startswith(BUCKETS):
        from components.ledger_bucket import LedgerBucket  # noqa: PLC0415 - only a stack with a bucket needs it

        return LedgerBucket(url, f".pulumi/ledger/{project}/{stack}", local)
    return local


def append_all(ledger: Ledger, events: Iterable[Event]) -> str:
    """Write events. Return why they are only in a file of this checkout, or "". Raises OSError."""
    reason = ""
    for event in events:
        try:
            ledger.append(event)
        except NotInBucket as error:
            reason = str(error)
    return reason


def month_so_far(label_base: str) -> MonthToDate | None:
    """Return the stack's cost of this month from its ledger; None if unreadable. Replicas of a fleet share one read."""
    ledger = open_ledger(label_base, os.environ, Path())

    def read() -> MonthToDate | None:
        now = datetime.now(UTC)
        try:
            return month_to_date(fold(ledger.events()).values(), Month.of(now), now.timestamp())
        except OSError:
            return None

    return _MONTHS.setdefault(str(ledger), SharedRead(read)).get(max_age_s=FRESH_S)


def recorder(label_base: str) -> Callable[[Event], None]:
    """Return a function that writes a resource's events to its stack's ledger; a failed write only logs a warning."""

    def record(event: Event) -> None:
        ledger = open_ledger(label_base, os.environ, Path())
        try:
            ledger.append(event)
        except NotInBucket as error:
            ENGINE.warn(str(error))
        except OSError as error:
            ENGINE.warn(f"cannot write to {ledger} ({error.strerror}), so the ledger lacks {event}")

    return record
