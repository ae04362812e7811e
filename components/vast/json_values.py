"""JSON values that mean the same: compared, and written as one text.

On the way through the engine ints become floats, tuples lists, and nulls in maps are dropped. Pure; called by the
resources, `change` and `market`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from components.vast.wire import Json

DIGEST_CHARS = 12


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
