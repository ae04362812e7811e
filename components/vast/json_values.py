"""JSON values, compared as the engine changes them and written as one text. Pure; called by the resources and `change`.

On the way through the engine ints become floats, tuples lists, and nulls in maps are dropped.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Json: TypeAlias = Any
Wire: TypeAlias = Mapping[str, Json]
DIGEST_CHARS = 12


def same(old: Json, new: Json) -> bool:
    """Whether two values mean the same: engines turn ints into floats, tuples into lists, and drop nulls in maps."""
    return as_text(old) == as_text(new)


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


def digest(value: Json, secret: str = "") -> str:
    """Return 12 hex digits that are equal for values that mean the same. Without the `secret`, where what is digested
    may be one, nobody who guesses a value can tell that it is right."""
    return hmac.digest(secret.encode(), as_text(value).encode(), "sha256").hex()[:DIGEST_CHARS]
