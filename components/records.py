"""Converts between the engine's maps and the code's dataclasses. Pure.

Each verb of a resource calls `structure` at its start, and so does the code that reads an API or YAML; `record` is
called for the inputs of a resource.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
# by type: the accepted Python types of a value in a file, and their name in errors
ACCEPTED: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    tuple: ((list, tuple), "a list"),
}


def structure(cls: type[T], raw: Mapping[str, Any], *, exact: bool = False) -> T:
    """Return a dataclass from a map, by its type hints: nested ones, tuples, maps, numbers, Literal.

    Missing and null values keep their defaults; unknown keys are ignored. The engine turns ints into floats and tuples
    into lists. Raises TypeError for a missing value without default, ValueError with the key for a value of a wrong
    type. `exact`, for files that people write: unknown keys, wrong types (YAML reads NO as a boolean) and missing
    values are all a ValueError.
    """
    hints, values = _hints(cls), {}  # type: ignore[arg-type]
    if exact and (unknown := [str(key) for key in raw if key not in hints]):
        raise ValueError(f"{', '.join(unknown)}: accepted: {', '.join(hints)}")
    for name, hint in hints.items():
        if raw.get(name) is not None:
            try:
                values[name] = _value(hint, raw[name], exact)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    try:
        return cls(**values)
    except TypeError as error:
        raise (ValueError(str(error).partition("() ")[2]) if exact else error) from None


def record(value: Any) -> Any:
    """Return a record as plain data at every depth, without None. Outputs of Pulumi stay unchanged.

    >>> record(Bid(factor=1.5))
    {"factor": 1.5}
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: record(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [record(item) for item in value]
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in fields(cls)}


def _value(hint: Any, raw: Any, exact: bool) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not types.NoneType]
        return _value(kinds[0], raw, exact) if len(kinds) == 1 else raw
    if origin is Literal and raw not in inner:
        raise ValueError(f"is {raw!r}, which is none of {', '.join(map(repr, inner))}")
    accepted, word = ACCEPTED.get(origin or hint, ((object,), ""))
    if exact and (not isinstance(raw, accepted) or (isinstance(raw, bool) and hint in (str, int, float))):
        hint_yaml = "; YAML reads NO without quotes as the word no: write it in quotes" if raw is False else ""
        raise ValueError(f"is {raw!r}; accepted: {word}{hint_yaml}")
    if origin is tuple:
        return tuple(_value(inner[0], item, exact) for item in raw)
    if origin is Mapping:
        return {str(key): item if inner[1] is Any else _value(inner[1], item, exact) for key, item in raw.items()}
    if is_dataclass(hint) and isinstance(raw, Mapping):
        return structure(hint, raw, exact=exact)  # type: ignore[arg-type]
    if hint is int:
        return int(float(raw))
    return hint(raw) if hint in (str, float, bool) else raw
