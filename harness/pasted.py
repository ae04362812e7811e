"""The commands of README.md and docs/, and a shell that runs them. Used by tests."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.stack import CommandResult

BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.M | re.S)


def section(page: str, heading: str) -> str:
    """Return the text under a heading of level 2."""
    [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return str(text)


def commands(text: str) -> list[str]:
    """Return the commands of the console blocks: lines after "$ ", joined if a line ends in a \\."""
    lines = [line.strip() for block in BLOCK.findall(text) for line in block.replace("\\\n", "").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


class Shell:
    """A bash process that keeps its state between commands."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._mark = secrets.token_hex(8)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=folder, env=env, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str, *, within_s: float = 200) -> CommandResult:
        """Run a command. Kills the shell after `within_s`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(f"{{ {command}\n}} </dev/null\necho {self._mark} $?", file=self._process.stdin, flush=True)
        timer = threading.Timer(within_s, os.killpg, (self._process.pid, signal.SIGKILL))
        timer.start()
        text = ""
        try:
            for line in self._process.stdout:
                output, mark, rc = line.partition(self._mark)
                text += output
                if mark:
                    return CommandResult(int(rc), text)
        finally:
            timer.cancel()
        raise AssertionError(f"{command} did not end within {within_s:g} s, or it ended the shell:\n{text[-3000:]}")

    def ok(self, *commands: str) -> str:
        """Run commands and return their output. Raises AssertionError if one fails."""
        text = ""
        for command in commands:
            done = self.run(command)
            assert done.rc == 0, f"$ {command}\n{done.text[-4000:]}"
            text += done.text
        return text

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
