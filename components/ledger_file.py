"""A ledger in a file: one JSON event per line, append only. Used by `stack_ledger`; `ledger_bucket` uses its lines."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from components.records import structure
from components.vast.ledger import Event

MAX_TEXT_CHARS = 300  # a line stays below 4096 bytes, so its write is atomic


class NotInBucket(OSError):
    """A ledger's bucket could not be written; the event is in a file of this checkout. The text says why, and where."""


@dataclass(frozen=True)
class LedgerFile:
    """The file at `path`. `clock`: seconds since the epoch."""

    path: Path
    clock: Callable[[], float] = time.time

    def append(self, event: Event) -> None:
        """Write an event to the disk, with the current time if it has none. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = b"\n" + to_line(timed(event, self.clock))  # starts a new line, in case the last one is incomplete
        # the umask decides who else may append
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def events(self) -> list[Event]:
        """Return the events in the order of the file, without incomplete or foreign lines. Raises OSError."""
        try:
            return parse_lines(self.path.read_bytes())
        except FileNotFoundError:
            return []

    def __str__(self) -> str:
        return str(self.path)


def timed(event: Event, clock: Callable[[], float]) -> Event:
    """Return the event with the current time if it has none."""
    return replace(event, at=round(event.at or clock(), 3))


def to_line(event: Event) -> bytes:
    """Return the event as a line of JSON, without its default values, and with a cut text."""
    event = replace(event, text=event.text[:MAX_TEXT_CHARS])
    values = {item.name: value for item in fields(event) if (value := getattr(event, item.name)) != item.default}
    return f"{json.dumps(values)}\n".encode()


def parse_lines(data: bytes) -> list[Event]:
    """Return the events of the lines, in their order, without incomplete or foreign lines."""
    events = []
    for line in filter(None, data.decode("utf-8", "replace").splitlines()):
        with suppress(ValueError, TypeError, AttributeError):
            events.append(structure(Event, json.loads(line)))
    return events
