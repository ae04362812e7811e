"""Compares JSON values and writes them as canonical text. Pure; called by the resources and `change`.

The Pulumi engine turns ints into floats and tuples into lists, and drops nulls in maps; this module ignores that.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

Json: TypeAlias = Any
Wire: TypeAlias = Mapping[str, Json]


def same(old: Json, new: Json) -> bool:
    """Whether two values are equal after the engine's changes."""
    return as_text(old) == as_text(new)


def _canonical(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_text(value: Json) -> str:
    """Return canonical JSON text. Pulumi logs and stores each entry of a map separately, so a map is stored as text."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def digest(value: Json, secret: str = "") -> str:
    """Return 12 hex digits of the canonical text. `secret` is the key: without it nobody can verify a guess."""
    return hmac.digest(secret.encode(), as_text(value).encode(), "sha256").hex()[:12]
