"""Typed records of plain data, and back: what the engine carries are maps, what the code works with are dataclasses.

`structure` is called once, at the start of each verb of the resources, `record` where a resource is declared. Pure.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def structure(cls: type[T], raw: Mapping[str, Any]) -> T:
    """Return a dataclass from a map, by its type hints: nested ones, tuples, maps, numbers, Literal.

    What is missing or null keeps its default; keys that the class does not have are left out. Engines make floats of
    ints and lists of tuples. Raises TypeError where something without a default is missing, ValueError for a value
    that is not of its type.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    return cls(**{name: _value(hint, raw[name]) for name, hint in hints.items() if raw.get(name) is not None})


def record(value: Any) -> Any:
    """Return a record, and all that is in it, as plain data: without what is None. Outputs of Pulumi stay as they are.

    >>> record(Bid(factor=1.5))
    {"factor": 1.5}
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: record(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [record(item) for item in value]
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {one.name: hints[one.name] for one in fields(cls)}


def _value(hint: Any, raw: Any) -> Any:
    if hint is Any:
        return raw
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [one for one in inner if one is not types.NoneType]
        return _value(kinds[0], raw) if len(kinds) == 1 else raw
    if origin is Literal and raw not in inner:
        raise ValueError(f"{raw!r} is none of {', '.join(map(repr, inner))}")
    if origin is tuple:
        return tuple(_value(inner[0], one) for one in raw)
    if origin is Mapping:
        return {str(key): _value(inner[1], one) for key, one in raw.items()}
    if is_dataclass(hint) and isinstance(raw, Mapping):
        return structure(hint, raw)  # type: ignore[arg-type]
    if hint is int:
        return int(float(raw))
    return hint(raw) if hint in (str, float, bool) else raw
