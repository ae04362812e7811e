"""A container's process: started in a new session, identified by pid and start time, killed with its session."""

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
# The processes that this emulator started. Without a reference, the next Popen would reap them and lose the exit code.
CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


class NotExecutable(Exception):
    """The container's entrypoint does not exist."""


@dataclass
class Process:
    """A container process, running or ended. `pid` and `started` identify it after a restart of the emulator."""

    pid: int
    started: int
    exit_code: int | None = None
    frozen: bool = False
    full: bool = False

    @classmethod
    def start(cls, argv: list[str], env: Mapping[str, str], folder: Path) -> Process:
        """Start `argv` with exactly this environment and its output in `folder`/log. Raises NotExecutable."""
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
        """Return the exit code, None while the process runs, -1 if the exit code is unknown."""
        if self.exit_code is None:
            child = CHILDREN.get(self.pid)
            if child is not None:
                self.exit_code = child.poll()
            elif start_time(self.pid) != self.started:  # started by an earlier emulator
                self.exit_code = -1
            if self.exit_code is not None:
                CHILDREN.pop(self.pid, None)
        return self.exit_code

    def freeze(self, *, on: bool) -> None:
        """Stop (SIGSTOP) all processes of the container, or continue them: the kernel still accepts connections."""
        self.frozen = on
        self._signal(signal.SIGSTOP if on else signal.SIGCONT)

    def fill_disk(self, *, on: bool) -> None:
        """Make every file write in the container fail, or succeed again.

        Sets a limit on the file size, so the error is EFBIG instead of ENOSPC.
        """
        self.full = on
        for pid in list(self._members()):
            with suppress(ProcessLookupError, PermissionError):
                hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if on else hard, hard))

    def kill(self) -> None:
        """Kill all processes of the container and wait until they have ended."""
        deadline = time.monotonic() + KILL_WITHIN_S
        while time.monotonic() < deadline:
            self._signal(signal.SIGKILL)
            if self.poll() is not None and not list(self._members()):
                return
            time.sleep(0.005)

    def _signal(self, number: signal.Signals) -> None:
        for pid in list(self._members()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _members(self) -> Iterator[int]:
        """Yield the pids of the session's processes; nothing if the pid now belongs to another process."""
        leader = stat(self.pid)
        if leader is not None and int(leader[19]) != self.started:
            return
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = stat(int(entry.name))
                if fields is not None and fields[0] not in "ZX" and int(fields[3]) == self.pid:
                    yield int(entry.name)


def stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name (state 0, group 2, session 3, start 19), or None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def start_time(pid: int) -> int | None:
    """Return the start time of a process (clock ticks since boot), or None if it does not exist or has ended."""
    fields = stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])
