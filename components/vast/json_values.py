"""JSON values: read as Vast.ai sends them, compared as the engine changes them, written as one text.

In Vast.ai's answers a number may be a string and a string may be null. On the way through the engine ints become
floats, tuples lists, and nulls in maps are dropped. Pure; called by the resources and by most of components.vast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from components.errors import MalformedAnswer

Json: TypeAlias = Any
Wire: TypeAlias = Mapping[str, Json]
DIGEST_CHARS = 12


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


def same(old: Json, new: Json) -> bool:
    """Whether two values mean the same: engines turn ints into floats, tuples into lists, and drop nulls in maps."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = {key for key in (*old, *new) if old.get(key) is not None or new.get(key) is not None}
        return all(same(old.get(key), new.get(key)) for key in keys)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(same(left, right) for left, right in zip(old, new, strict=True))
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, int | float) and isinstance(new, int | float):
        return float(old) == float(new)
    return bool(old == new)


def _canonical(value: Json) -> Json:
    """Return a value without what `same` does not see."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_text(value: Json) -> str:
    """Return JSON that is equal for values that mean the same. Pulumi logs and carries each entry of a map by itself,
    so what only this project reads is one text."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def digest(value: Json) -> str:
    """Return 12 hex digits that are equal for values that mean the same."""
    return hashlib.sha256(as_text(value).encode()).hexdigest()[:DIGEST_CHARS]
