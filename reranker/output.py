"""Output streams and exit codes of the commands. Used by `command` and its subcommands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import TextIO

from reranker.errors import (
    Busy,
    InvalidInput,
    KeyRefused,
    MalformedAnswer,
    RerankerError,
    ServerError,
    StackError,
    Unreachable,
    Untrusted,
)
from reranker.table import one_line, wants_colour

# Code 1 is not used: Python exits with it on an unexpected exception.
EXIT_CODES: tuple[tuple[int, str, tuple[type[RerankerError], ...]], ...] = (
    (2, "an argument, a file or a line of a file is invalid, or the output cannot be written", (InvalidInput,)),
    (3, "the stack cannot be read or is not deployed", (StackError,)),
    (4, "no score within --timeout: the server is unreachable or busy", (Unreachable, Busy)),
    (5, "the certificate is not trusted", (Untrusted,)),
    (6, "the key is refused", (KeyRefused,)),
    (7, "the server returns an error, or is not a reranker", (ServerError, MalformedAnswer)),
    (8, "some documents have no score: standard error lists them, the others are ranked", ()),
)
INCOMPLETE = 8


class Output:
    """Writes results to stdout and messages to stderr. `width` is None and `colour` False if stdout is no terminal."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool) -> None:
        self.stdout, self.stderr = stdout, stderr
        terminal = stdout.isatty()
        self.colour = not as_json and wants_colour(terminal, os.environ)
        self.width = shutil.get_terminal_size().columns if terminal else None

    def print_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.stdout.write(line + "\n")
        self.stdout.flush()

    def log(self, text: str) -> None:
        self.stderr.write(f"rerank: {one_line(text)}\n")

    def fail(self, error: RerankerError, hint: str = "") -> int:
        """Log an error and return its exit code."""
        self.log(f"{error}{hint}")
        return next(code for code, _, kinds in EXIT_CODES if isinstance(error, kinds))
