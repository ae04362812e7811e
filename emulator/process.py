"""A container's process: started in a session of its own, watched by pid and start time, killed with all it started."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KILL_WITHIN_S = 10.0
# The processes that this emulator started, held here: the exit code of one that is let go of is taken by whatever is
# started next.
CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


class NotExecutable(Exception):
    """The container's entrypoint does not exist."""


@dataclass
class Process:
    """A running, or ended, container process. Survives a restart of the emulator as pid and start time."""

    pid: int
    started: int
    exit_code: int | None = None
    frozen: bool = False
    full: bool = False

    @classmethod
    def start(cls, argv: list[str], env: Mapping[str, str], folder: Path) -> Process:
        """Start `argv` with exactly this environment, its output in `folder`/log. Raises NotExecutable."""
        executable = shutil.which(argv[0], path=env["PATH"])
        if executable is None:
            raise NotExecutable(argv[0])
        with (folder / "log").open("ab") as log:
            child = subprocess.Popen(
                [executable, *argv[1:]],
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        CHILDREN[child.pid] = child
        return cls(child.pid, start_time(child.pid) or 0)

    def poll(self) -> int | None:
        """Return the exit code once the process has ended, else None."""
        if self.exit_code is None:
            child = CHILDREN.get(self.pid)
            if child is not None:
                self.exit_code = child.poll()
            elif start_time(self.pid) != self.started:  # a process of an emulator before this one: nobody knows
                self.exit_code = -1
            if self.exit_code is not None:
                CHILDREN.pop(self.pid, None)
        return self.exit_code

    def freeze(self, *, on: bool) -> None:
        """Stop everything in the container without ending it, or let it go on: connections are taken, not answered."""
        self.frozen = on
        self._signal(signal.SIGSTOP if on else signal.SIGCONT)

    def fill_disk(self, *, on: bool) -> None:
        """Let every write to a file in the container fail, or succeed again.

        As at a full disk, but for the number of the error: EFBIG, since a limit on the size of files is what makes it.
        """
        self.full = on
        for pid in list(self._members()):
            with suppress(ProcessLookupError, PermissionError):
                hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if on else hard, hard))

    def kill(self) -> None:
        """Kill everything in the container and wait until it is gone, as a container dies with its first process."""
        deadline = time.monotonic() + KILL_WITHIN_S
        while time.monotonic() < deadline:
            self._signal(signal.SIGKILL)
            if self.poll() is not None and not list(self._members()):
                return
            time.sleep(0.005)

    def _signal(self, sign: signal.Signals) -> None:
        for pid in list(self._members()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sign)

    def _members(self) -> Iterator[int]:
        """Yield the living processes of the session; none when its id has come to be another process's."""
        leader = stat(self.pid)
        if leader is not None and int(leader[19]) != self.started:
            return
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = stat(int(entry.name))
                if fields is not None and fields[0] not in "ZX" and int(fields[3]) == self.pid:
                    yield int(entry.name)


def stat(pid: int) -> list[str] | None:
    """Return a process's status fields from its state on (state 0, group 2, session 3, start 19), or None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def start_time(pid: int) -> int | None:
    """Return when a process was started (clock ticks since boot), or None if it is none, or has ended."""
    fields = stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])
