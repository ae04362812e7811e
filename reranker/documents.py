"""Documents as JSON lines: a string, or an object with a text field, on each; results as `--json` prints them.

An object comes out of the command as it went in, so that an id or a title beside the text is not lost.
Read by `command`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from reranker.errors import InvalidInput

Read = TypeVar("Read")
Original = str | dict[str, Any]


@dataclass(frozen=True)
class Document:
    """The text that is scored, what it was given as, and its line in a file; 0 for one that is in none."""

    text: str
    original: Original
    line: int = 0


def read_file(path: str, read: Callable[[BinaryIO], Read]) -> Read:
    """Return what `read` makes of a file. Raises InvalidInput."""
    try:
        with Path(path).open("rb") as file:
            return read(file)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def read_results(lines: Iterable[bytes], source: str, documents: list[Document]) -> dict[int, float]:
    """Return the score of each index that an earlier `--json` of these documents has. Raises InvalidInput."""
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            given = json.loads(line)
            index, score = int(given["index"]), float(given["score"])
            same = index >= 0 and documents[index].original == given["document"]
        except (ValueError, TypeError, LookupError, RecursionError):
            same = False
        if not same:
            raise InvalidInput(f"{source}, line {number} is no result for these documents, as --json prints them")
        found[index] = score
    return found


def read_lines(lines: Iterable[bytes], source: str, field: str = "text") -> list[Document]:
    """Return the documents of JSON lines; blank lines are skipped. Raises InvalidInput, with the line's number."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            given = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidInput(
                f'{where} is not JSON in UTF-8: each line is "a string" or {{"{field}": "a text"}} '
                "(plain lines become that by: jq -R .)"
            ) from None
        text = given.get(field) if isinstance(given, dict) else given
        if isinstance(given, list):
            raise InvalidInput(
                f"{where} is an array: each line is one document (an array becomes that by: jq -c '.[]')"
            )
        if not isinstance(text, str):
            names = f"; it has {', '.join(map(repr, given)) or 'nothing'}" if isinstance(given, dict) else ""
            raise InvalidInput(f"{where} is no string and no object with a string in {field!r} (--field){names}")
        found.append(Document(text, given, number))
    return found
