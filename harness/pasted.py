"""The commands of README.md and docs/, and a shell to paste them into, as a person would. Used by tests."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.stack import Done

BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.M | re.S)


def section(page: str, heading: str) -> str:
    """Return what stands under a heading of a page, up to the next one of its level."""
    [found] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return str(found)


def commands(text: str) -> list[str]:
    """Return the commands of a text's console blocks in order: the lines after "$ ", joined where one ends in a \\."""
    lines = [line.strip() for block in BLOCK.findall(text) for line in block.replace("\\\n", "").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


class Shell:
    """A bash that lives as long as a terminal does: what a command sets, the next one has."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._mark = secrets.token_hex(8)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=folder, env=env, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str, *, within_s: float = 200) -> Done:
        """Run a command to its end; one that is over its time is killed with the shell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(f"{{ {command}\n}} </dev/null\necho {self._mark} $?", file=self._process.stdin, flush=True)
        timer = threading.Timer(within_s, os.killpg, (self._process.pid, signal.SIGKILL))
        timer.start()
        text = ""
        try:
            for line in self._process.stdout:
                before, found, rc = line.partition(self._mark)
                text += before
                if found:
                    return Done(int(rc), text)
        finally:
            timer.cancel()
        raise AssertionError(f"{command} did not end within {within_s:g} s, or ended the shell:\n{text[-3000:]}")

    def ok(self, *pasted: str) -> str:
        """Run commands, each of which has to succeed; return all that they print."""
        text = ""
        for command in pasted:
            done = self.run(command)
            assert done.rc == 0, f"$ {command}\n{done.text[-4000:]}"
            text += done.text
        return text

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
