"""The few commands that the API runs in a container: `ls`, `du` and `rm`, on files of that container alone. Called by
`instance_routes` off the event loop.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from emulator.errors import refusal

COMMANDS = ("ls", "du", "rm")
COMMAND_LIMIT = 512
WITHIN_S = 10.0


def arguments_of(command: object, folder: Path) -> list[str]:
    """Return a command's words, its paths those of the container's folder. Raises ServiceError."""
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
    """Run a command; what it writes, errors too."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WITHIN_S, check=False
    )
    return done.stdout
