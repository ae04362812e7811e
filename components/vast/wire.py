"""Reading values off the wire: JSON as Vast sends it, where a number may be a string and a string may be null.

Called by `models`, `query` and `client`; every reader says what it expected when it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from components.errors import MalformedAnswer

Json: TypeAlias = Any
Wire: TypeAlias = Mapping[str, Json]


def number(raw: Wire, key: str, default: float | None = None) -> float:
    """Return `raw[key]` as a float; a numeric string counts. Raises MalformedAnswer when there is no number."""
    value = raw.get(key)
    if isinstance(value, bool) or value is None or value == "":
        if default is None:
            raise MalformedAnswer(f"the API's answer has no number under {key!r} (got {value!r})")
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MalformedAnswer(f"the API's answer has {value!r} under {key!r}, where a number belongs") from None


def integer(raw: Wire, key: str, default: int | None = None) -> int:
    """Return `raw[key]` as an int. Raises MalformedAnswer when there is no number."""
    return int(number(raw, key, None if default is None else float(default)))


def text(raw: Wire, key: str) -> str:
    """Return `raw[key]` stripped (Vast's own strings may end in a newline), or "" for null."""
    value = raw.get(key)
    return "" if value is None else str(value).strip()
