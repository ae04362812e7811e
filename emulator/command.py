"""The commands that the API runs in a container: `ls`, `du` and `rm`. Called by `instance_routes`."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from emulator.errors import refusal

COMMANDS = ("ls", "du", "rm")
COMMAND_LIMIT = 512
TIMEOUT_S = 10.0


def parse_command(command: object, folder: Path) -> list[str]:
    """Return the words of a command, with its paths inside `folder`. Raises ServiceError."""
    try:
        words = shlex.split(str(command))
    except ValueError:
        raise refusal("invalid_command") from None
    if not words or words[0] not in COMMANDS or len(str(command)) > COMMAND_LIMIT:
        raise refusal("invalid_command")
    flags = [word for word in words[1:] if word.startswith("-")]
    paths = [(folder / word.lstrip("/")).resolve() for word in words[1:] if not word.startswith("-")]
    if any(not path.is_relative_to(folder.resolve()) for path in paths):
        raise refusal("invalid_command")
    return [words[0], *flags, "--", *map(str, paths)]


def run(words: list[str], folder: Path) -> str:
    """Run a command (blocking) and return its stdout and stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S, check=False
    )
    return result.stdout
