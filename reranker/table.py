"""Formats the output of the commands: tables, JSON lines and bars. Called by `command`, `eval_command` and `output`.

Documents are untrusted: control characters, which a terminal would execute, are replaced by spaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from reranker.answers import Failed, Ranking
from reranker.documents import Document

BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
MIN_WIDTH = 20
BAR = "▇"  # lower than the line, so that bars do not touch


def wants_colour(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to use colour: on a terminal other than "dumb", unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def ranking_lines(ranking: Ranking, *, width: int | None, colour: bool) -> Iterable[str]:
    """Yield a line per document, best first: score, index, text, cut to `width` unless None."""
    digits = max((len(str(document.index)) for document in ranking), default=1)
    for document in ranking:
        score, index = f"{document.score:9.6f}", f"[{document.index}]".rjust(digits + 2)
        text = one_line(document.text)
        if width is not None:
            room = max(MIN_WIDTH, width - len(score) - len(index) - 4)
            text = text if len(text) <= room else text[: room - 1] + "…"
        yield f"{BOLD}{score}{PLAIN}  {DIM}{index}{PLAIN}  {text}" if colour else f"{score}  {index}  {text}"


def ranking_json(ranking: Ranking, documents: list[Document]) -> Iterable[str]:
    """Yield a JSON object per document, best first: index, score, and the original document."""
    for row in ranking:
        result = {"index": row.index, "score": row.score, "document": documents[row.index].original}
        # an unpaired surrogate in another field than the text stays JSON's escape
        yield json.dumps(result, ensure_ascii=False).encode(errors="backslashreplace").decode()


def failed_lines(failed: Iterable[Failed], documents: list[Document]) -> Iterable[str]:
    """Yield the line numbers and the error of each run of documents that failed with the same error."""
    for _, group in groupby(failed, key=lambda failure: id(failure.error)):
        run = list(group)
        first, last = (documents[failure.index].line or failure.index + 1 for failure in (run[0], run[-1]))
        name = "line" if documents[run[0].index].line else "document"
        numbers = f"{name} {first}" if len(run) == 1 else f"{name}s {first} to {last} ({len(run)})"
        yield f"{numbers}: {run[0].error}"


def columns(rows: list[list[str]]) -> Iterable[str]:
    """Yield rows as columns. A column is right-aligned if its last cell begins with a digit."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    aligns = [f"{'>' if cells[-1][:1].isdigit() else '<'}{max(map(len, cells))}" for cells in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(format, row, aligns)).rstrip()


def bars(rows: list[tuple[str, float]], value_format: str, width: int | None, full: float = 0.0) -> Iterable[str]:
    """Yield a bar for each (name, value). A bar has full width at the value `full` (0: at the largest value)."""
    names = [one_line(name) for name, _ in rows]
    name_width, values = max(map(len, names)), [value_format.format(value) for _, value in rows]
    room = max(MIN_WIDTH, (width or 80) - name_width - max(map(len, values)) - 4)
    full = full or max(value for _, value in rows) or 1.0
    for name, text, (_, value) in zip(names, values, rows, strict=True):
        yield f"{name:{name_width}}  {BAR * max(1, round(room * value / full))}  {text}"


def facts_lines(facts: Mapping[str, Any], *, colour: bool) -> Iterable[str]:
    """Yield a line with name and value for each fact; None is omitted."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if value is not None:
            text = one_line(("no", "yes")[value] if isinstance(value, bool) else str(value))
            yield f"{DIM}{name:{width}}{PLAIN}  {text}" if colour else f"{name:{width}}  {text}"


def one_line(text: str) -> str:
    """Return text on one line, with control characters replaced by spaces."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
