"""An emulator in a separate process, and its container processes."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.emulator.client import Client

REPO = Path(__file__).resolve().parents[2]


class EmulatorProcess:
    """`python -m emulator` in a separate process."""

    def __init__(self, state, *flags):
        argv = ["-m", "emulator", "--runtime", "stub", "--state", str(state), "--hub", "offline", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, *argv], cwd=REPO, **pipes)
        self.line = self.process.stdout.readline()
        self.vast = Client(self.line.split()[3], folder=state)

    def end(self, sign=signal.SIGTERM):
        self.process.send_signal(sign)
        out, err = self.process.communicate(timeout=20)
        return out, err, self.process.returncode


def pids_with_home(folder):
    """Return the processes whose HOME is a folder or inside it."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(f"{variable.decode(errors='replace')}/".startswith(f"HOME={folder}/") for variable in variables):
            pids.append(int(entry.name))
    return pids


def container_pids(vast, instance_id):
    return pids_with_home(vast.folder / "containers" / str(instance_id))
