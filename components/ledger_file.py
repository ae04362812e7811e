"""Where a stack's ledger is kept, appended to and read: beside the state. Called by the resources and ops.

`.pulumi/ledger/<project>/<stack>.jsonl` in the folder of a file backend survives a replaced server, a lost state and
`stack rm`, and is the same for all who share the folder. Nothing can be appended to another backend: there it is
`.local/ledger/` of this checkout, and `ops cost` adds what other machines rented, by the account's charges.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
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
MAX_TEXT_CHARS = 300  # a line is one write of less than 4096 bytes, which no other writer's gets into

_MONTHS: dict[Path, SharedRead[MonthToDate | None]] = {}


@dataclass(frozen=True)
class LedgerFile:
    """A ledger: one event a line, JSON; lines are only ever added. `clock`: seconds since the epoch."""

    path: Path
    clock: Callable[[], float] = time.time

    def append(self, event: Event) -> None:
        """Write an event to the disk, at the present time where it has none. Raises OSError."""
        event = replace(event, at=round(event.at or self.clock(), 3), text=event.text[:MAX_TEXT_CHARS])
        known = {one.name: value for one in fields(event) if (value := getattr(event, one.name)) != one.default}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = f"\n{json.dumps(known)}\n".encode()  # begins a line, so that one that was cut off spoils no other
        # readable and writable as the umask says: others who share the folder append too
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, data) < len(data):  # the line is cut off; the next one begins anew
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def events(self) -> list[Event]:
        """Return what was written, in that order; a line that was cut off, or is none of ours, is left out."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in filter(None, lines):
            try:
                found.append(structure(Event, json.loads(line)))
            except (ValueError, TypeError, AttributeError):
                continue
        return found


def ledger_file(label_base: str, env: Mapping[str, str], folder: Path) -> LedgerFile:
    """Return the ledger of the stack that a label (project/stack/...) names. `folder`: of its Pulumi.yaml."""
    try:
        state = state_folder(env, folder)
    except FileNotFoundError:  # a program in another language, whose plugin runs elsewhere
        state = None
    project, stack = label_base.split("/")[:2]
    where = state / ".pulumi" if state else folder / ".local"
    return LedgerFile(where / "ledger" / project / f"{stack}.jsonl")


def month_so_far(label_base: str) -> MonthToDate | None:
    """Return what the stack of a resource has cost this month by its ledger; None where that cannot be read.

    Read once for all replicas of a fleet that rent at the same time.
    """
    ledger = ledger_file(label_base, os.environ, Path())

    def read() -> MonthToDate | None:
        now = datetime.now(UTC)
        try:
            return month_to_date(fold(ledger.events()).values(), Month.of(now), now.timestamp())
        except OSError:
            return None

    return _MONTHS.setdefault(ledger.path, SharedRead(read)).get(max_age_s=FRESH_S)


def recorder(label_base: str) -> Callable[[Event], None]:
    """Return what writes events of a resource to its stack's ledger; where that fails it warns, and nothing else."""

    def record(event: Event) -> None:
        ledger = ledger_file(label_base, os.environ, Path())
        try:
            ledger.append(event)
        except OSError as error:
            text = f"{ledger.path} takes no line ({error.strerror}), so the ledger lacks {event}"
            ENGINE.warn(text)

    return record
