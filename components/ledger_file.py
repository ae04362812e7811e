"""The file of a stack's ledger, next to the state. Called by the resources and ops.

With a file backend it is `.pulumi/ledger/<project>/<stack>.jsonl` in the backend's folder. There it survives a replaced
server, a lost state and `stack rm`, and all users of the folder share it. Other backends cannot be appended to: then it
is `.local/ledger/` of this checkout, and `ops cost` adds rentals from elsewhere, by the account's charges.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from components.plugin.engine import ENGINE
from components.records import structure
from components.state_folder import state_folder
from components.vast.bill import Month, MonthToDate, month_to_date
from components.vast.instance_cache import SharedRead
from components.vast.ledger import Event, fold

FRESH_S = 300.0
MAX_TEXT_CHARS = 300  # a line stays below 4096 bytes, so its write is atomic

_MONTHS: dict[Path, SharedRead[MonthToDate | None]] = {}


@dataclass(frozen=True)
class LedgerFile:
    """A ledger: one JSON event per line, append only. `clock`: seconds since the epoch."""

    path: Path
    clock: Callable[[], float] = time.time

    def append(self, event: Event) -> None:
        """Write an event to the disk, with the current time if it has none. Raises OSError."""
        event = replace(event, at=round(event.at or self.clock(), 3), text=event.text[:MAX_TEXT_CHARS])
        values = {item.name: value for item in fields(event) if (value := getattr(event, item.name)) != item.default}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = f"\n{json.dumps(values)}\n".encode()  # starts a new line, in case the last one is incomplete
        # the umask decides who else may append
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def events(self) -> list[Event]:
        """Return the events in the order of the file, without incomplete or foreign lines."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in filter(None, lines):
            with suppress(ValueError, TypeError, AttributeError):
                events.append(structure(Event, json.loads(line)))
        return events


def ledger_file(label_base: str, env: Mapping[str, str], folder: Path) -> LedgerFile:
    """Return the ledger of the stack in a label (project/stack/...). `folder`: that of its Pulumi.yaml."""
    try:
        state = state_folder(env, folder)
    except FileNotFoundError:  # a program in another language, whose plugin runs in another folder
        state = None
    project, stack = label_base.split("/")[:2]
    parent = state / ".pulumi" if state else folder / ".local"
    return LedgerFile(parent / "ledger" / project / f"{stack}.jsonl")


def month_so_far(label_base: str) -> MonthToDate | None:
    """Return the stack's cost of this month from its ledger; None if unreadable. Replicas of a fleet share one read."""
    ledger = ledger_file(label_base, os.environ, Path())

    def read() -> MonthToDate | None:
        now = datetime.now(UTC)
        try:
            return month_to_date(fold(ledger.events()).values(), Month.of(now), now.timestamp())
        except OSError:
            return None

    return _MONTHS.setdefault(ledger.path, SharedRead(read)).get(max_age_s=FRESH_S)


def recorder(label_base: str) -> Callable[[Event], None]:
    """Return a function that writes a resource's events to its stack's ledger; a failed write only logs a warning."""

    def record(event: Event) -> None:
        ledger = ledger_file(label_base, os.environ, Path())
        try:
            ledger.append(event)
        except OSError as error:
            ENGINE.warn(f"cannot write to {ledger.path} ({error.strerror}), so the ledger lacks {event}")

    return record
