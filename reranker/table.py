"""What the command prints: a table for people, JSON lines for programs. Pure: text in, text out. Used by `command`.

Documents come from anywhere, so control characters, which a terminal would obey, are shown as blanks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from reranker.answers import Failed, Ranking
from reranker.documents import Document

BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
LEAST_WIDTH = 20
BAR = "▇"  # lower than its line, so that bars do not touch


def wants_colour(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to colour: on a terminal that is not dumb, unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def ranking_lines(ranking: Ranking, *, width: int | None, colour: bool) -> Iterable[str]:
    """Yield a line per document, best first: score, index, text. `width` None does not cut."""
    digits = max((len(str(one.index)) for one in ranking), default=1)
    for one in ranking:
        score, index = f"{one.score:9.6f}", f"[{one.index}]".rjust(digits + 2)
        text = one_line(one.text)
        if width is not None:
            room = max(LEAST_WIDTH, width - len(score) - len(index) - 4)
            text = text if len(text) <= room else text[: room - 1] + "…"
        yield f"{BOLD}{score}{PLAIN}  {DIM}{index}{PLAIN}  {text}" if colour else f"{score}  {index}  {text}"


def ranking_json(ranking: Ranking, documents: list[Document]) -> Iterable[str]:
    """Yield a JSON object per document, best first: index, score, and the document as it was given."""
    for one in ranking:
        yield json.dumps(
            {"index": one.index, "score": one.score, "document": documents[one.index].original}, ensure_ascii=False
        )


def failed_lines(failed: Iterable[Failed], documents: list[Document]) -> Iterable[str]:
    """Yield a line per document without a score, or per run of them that failed together: its lines, and why."""
    for _, together in groupby(failed, key=lambda one: id(one.error)):
        run = list(together)
        first, last = documents[run[0].index], documents[run[-1].index]
        ends = [one.line or run[at].index + 1 for at, one in ((0, first), (-1, last))]
        name = "line" if first.line else "document"
        which = f"{name} {ends[0]}" if len(run) == 1 else f"{name}s {ends[0]} to {ends[1]} ({len(run)})"
        yield f"{which}: {run[0].error}"


def columns(rows: list[list[str]]) -> Iterable[str]:
    """Yield rows as columns: text to the left, what begins with a digit to the right, as is the head above it."""
    widths = [max(map(len, map(one_line, column))) for column in zip(*rows, strict=True)]
    right = [one[:1].isdigit() for one in rows[-1]]
    for row in rows:
        cells = (
            one_line(one).rjust(w) if r else one_line(one).ljust(w)
            for one, w, r in zip(row, widths, right, strict=True)
        )
        yield "  ".join(cells).rstrip()


def bars(rows: list[tuple[str, float]], shown: str, width: int | None, full: float = 0.0) -> Iterable[str]:
    """Yield a bar for each (name, value), as wide as there is room where it is `full` (0: that of the largest value).

    `shown` is the value's format.
    """
    names = [one_line(name) for name, _ in rows]
    left, values = max(map(len, names)), [shown.format(value) for _, value in rows]
    room = max(LEAST_WIDTH, (width or 80) - left - max(map(len, values)) - 4)
    most = full or max(value for _, value in rows) or 1.0
    for name, value, (_, amount) in zip(names, values, rows, strict=True):
        yield f"{name:{left}}  {BAR * max(1, round(room * amount / most))}  {value}"


def facts_lines(facts: Mapping[str, Any], *, colour: bool) -> Iterable[str]:
    """Yield name and value, a line each; what is not known is left out."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if value is not None:
            shown = one_line(("no", "yes")[value] if isinstance(value, bool) else str(value))
            yield f"{DIM}{name:{width}}{PLAIN}  {shown}" if colour else f"{name:{width}}  {shown}"


def one_line(text: str) -> str:
    """Return text on one line, with nothing in it that a terminal obeys."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())
