"""A container's process: started in a group of its own, watched by pid and start time, killed as a group."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


class NotExecutable(Exception):
    """The container's entrypoint does not exist."""


@dataclass
class Process:
    """A running, or ended, container process. Survives a restart of the emulator as pid and start time."""

    pid: int
    started: int
    exit_code: int | None = None

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
        return cls(child.pid, _start_time(child.pid) or 0)

    def poll(self) -> int | None:
        """Return the exit code once the process has ended, else None."""
        if self.exit_code is not None:
            return self.exit_code
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:  # a process of an emulator before this one
            if _start_time(self.pid) != self.started:
                self.exit_code = -1
        return self.exit_code

    def freeze(self, *, on: bool) -> None:
        """Stop the group without ending it, or let it go on: connections are taken but nothing is answered."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGSTOP if on else signal.SIGCONT)

    def kill(self) -> None:
        """Kill the whole group and wait until the process is gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)


def _start_time(pid: int) -> int | None:
    """Return when a process was started (clock ticks since boot), or None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
