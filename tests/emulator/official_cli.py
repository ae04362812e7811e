"""The unmodified official CLI, used with an emulator."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.emulator.client import KEY

COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")


class Cli:
    """The `vastai` command with a separate home; a call returns its output."""

    def __init__(self, url, home, key=KEY, *, by_flags=True):
        self.prefix = ["--url", url, "--api-key", key] if by_flags else []
        self.env = {
            "PATH": "/usr/bin:/bin",
            "COLUMNS": "300",
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
            "VASTAI_NO_UPDATE_CHECK": "1",
        } | ({} if by_flags else {"VAST_URL": url, "VAST_API_KEY": key})

    def run(self, *args):
        program = Path(sys.executable).with_name("vastai")
        command = [program, *self.prefix, *map(str, args)]
        return subprocess.run(
            command, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )

    def __call__(self, *args, rc=0):
        done = self.run(*args)
        assert done.returncode == rc, done.stderr
        assert "Traceback" not in done.stderr
        return COLOURS.sub("", done.stdout + done.stderr)

    def json(self, *args):
        done = self.run(*args, "--raw")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
