"""An emulator in a process of its own, and the container processes that it leaves or does not leave."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.emulator.client import Client

REPO = Path(__file__).resolve().parents[2]


class Launched:
    """An emulator in a process of its own, as `python -m emulator` starts it."""

    def __init__(self, state, *flags):
        argv = [
            sys.executable,
            "-m",
            "emulator",
            "--runtime",
            "stub",
            "--state",
            str(state),
            "--hub",
            "offline",
            *flags,
        ]
        self.process = subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.vast = Client(self.line.split()[3], folder=state)

    def end(self, sign=signal.SIGTERM):
        self.process.send_signal(sign)
        out, err = self.process.communicate(timeout=20)
        return out, err, self.process.returncode


def processes_in(folder):
    """Processes of containers whose home is in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(one.startswith(f"HOME={folder}/".encode()) or one == f"HOME={folder}".encode() for one in variables):
            found.append(int(entry.name))
    return found


def processes_of(vast, instance_id):
    """Processes of one container."""
    return processes_in(vast.folder / "containers" / str(instance_id))
