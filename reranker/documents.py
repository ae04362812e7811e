"""Reads JSON lines: documents (a string, or an object with a text field), and results printed by `--json`.

Objects are printed unchanged, so that other fields, such as an id, are kept. Called by `command`.
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
    """The text to score, the original JSON value, and the line in the file, 0 if there is no file."""

    text: str
    original: Original
    line: int = 0


def read_file(path: str, read: Callable[[BinaryIO], Read]) -> Read:
    """Return `read(file)` for the file at `path`. Raises InvalidInput if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return read(file)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def read_results(lines: Iterable[bytes], source: str, documents: list[Document]) -> dict[int, float]:
    """Return index -> score from the `--json` output of an earlier run with these documents. Raises InvalidInput."""
    scores = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            index, score = int(row["index"]), float(row["score"])
            is_result = index >= 0 and documents[index].original == row["document"]
        except (ValueError, TypeError, LookupError, RecursionError):
            is_result = False
        if not is_result:
            raise InvalidInput(f"{source}, line {number} is not a --json result for these documents")
        scores[index] = score
    return scores


def read_lines(lines: Iterable[bytes], source: str, field: str = "text") -> list[Document]:
    """Return the documents of JSON lines; blank lines are skipped. Raises InvalidInput with the line number."""
    documents = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prefix = f"{source}, line {number}"
        try:
            original = json.loads(line)
        except (ValueError, RecursionError):
            raise InvalidInput(
                f'{prefix} is not JSON in UTF-8: each line is "a string" or {{"{field}": "a text"}} '
                "(to convert plain lines: jq -R .)"
            ) from None
        if isinstance(original, list):
            raise InvalidInput(f"{prefix} is an array: each line is one document (to convert an array: jq -c '.[]')")
        text = original.get(field) if isinstance(original, dict) else original
        if not isinstance(text, str):
            names = f"; it has {', '.join(map(repr, original)) or 'nothing'}" if isinstance(original, dict) else ""
            raise InvalidInput(f"{prefix} is not a string or an object with a string in {field!r} (--field){names}")
        documents.append(Document(text, original, number))
    return documents
