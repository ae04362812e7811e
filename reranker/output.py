"""Where the commands write to, and what they exit with. Used by `command` and the commands beside it."""

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

# One meaning each; 1 is what Python itself ends with on an error that nobody foresaw.
EXIT_CODES: tuple[tuple[int, str, tuple[type[RerankerError], ...]], ...] = (
    (2, "the command is wrong: an argument, a file, a line of it; or its output cannot be written", (InvalidInput,)),
    (3, "the stack cannot be read, or nothing is deployed", (StackError,)),
    (4, "no score within --timeout: nothing answers, or it is busy", (Unreachable, Busy)),
    (5, "the certificate is not trusted", (Untrusted,)),
    (6, "the key is refused", (KeyRefused,)),
    (7, "the server answers with an error, or not as a reranker does", (ServerError, MalformedAnswer)),
    (8, "some documents have no score: standard error lists them, the others are ranked", ()),
)
INCOMPLETE = 8


class Output:
    """Where lines go, how wide they may be, and whether they are coloured."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool) -> None:
        self.stdout, self.stderr = stdout, stderr
        terminal = stdout.isatty()
        self.colour = not as_json and wants_colour(terminal, os.environ)
        self.width = shutil.get_terminal_size().columns if terminal else None

    def lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.stdout.write(line + "\n")
        self.stdout.flush()

    def say(self, text: str) -> None:
        """Print what is no result."""
        self.stderr.write(f"rerank: {one_line(text)}\n")

    def fail(self, error: RerankerError, hint: str = "") -> int:
        self.say(f"{error}{hint}")
        return next(code for code, _, kinds in EXIT_CODES if isinstance(error, kinds))
