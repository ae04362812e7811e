"""The query language of the API: {field: {operator: value}} with numeric strings, order, and the cap of 64 offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cmp_to_key, partial
from typing import Any

from emulator.errors import refusal

CAP = 64
CONTROL = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling", "resource_type", "select_cols"})
OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "in", "notin")
# Documented and what clients in use send; the official one says on-demand.
TYPES = ("ondemand", "on-demand", "bid", "interruptible", "reserved")
ALIASES = {"ubuntu_version": "os_version"}
DRIVER_PARTS = (1_000_000, 1000, 1)


def matches(offer: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether an offer satisfies a query. `id` matches nothing, as on the real service."""
    for name, ops in query.items():
        if name in CONTROL or not isinstance(ops, Mapping):
            continue
        if name == "id":
            return False
        if not satisfies(_value(offer, name), {op: _wanted(name, want) for op, want in ops.items()}):
            return False
    return True


def satisfies(have: Any, ops: Mapping[str, Any]) -> bool:
    """Whether a value satisfies every operator. Raises ServiceError for an operator that there is not."""
    for op, want in ops.items():
        if op not in OPERATORS:
            raise refusal("invalid_search", what=f"unknown operator {op}; there are {', '.join(OPERATORS)}")
        if not _holds(have, op, want):
            return False
    return True


def select(offers: Iterable[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the offers that satisfy a query, ordered, at most 64. Raises ServiceError."""
    if query.get("type", TYPES[0]) not in TYPES:
        raise refusal("invalid_search", what=f"type is one of {', '.join(TYPES)}")
    found = ordered([offer for offer in offers if matches(offer, query)], query.get("order") or [])
    limit = int(query.get("limit") or CAP)
    return found[: min(limit, CAP)]


Order = list[tuple[str, str]]


def ordered(rows: list[dict[str, Any]], order: Iterable[Iterable[str]]) -> list[dict[str, Any]]:
    """Return rows sorted by [name, "asc" or "desc"] pairs, the first pair first."""
    pairs = [(name, direction) for name, direction in order]
    return sorted(rows, key=cmp_to_key(partial(compared, pairs)))


def compared(order: Order, left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    """Return -1, 0 or 1: whether a row comes before another, with it, or after it."""
    for name, direction in order:
        one, other = _sortable(left.get(name)), _sortable(right.get(name))
        if one != other:
            return -1 if (one < other) == (direction != "desc") else 1
    return 0


def _value(offer: Mapping[str, Any], name: str) -> Any:
    if name == "geolocation":
        return str(offer.get("geolocation", ""))[-2:]
    if name == "driver_version":
        return offer.get("driver_vers")
    if name == "datacenter":
        return offer.get("hosting_type") == 1
    if name == "verified":
        return offer.get("verification") == "verified"
    return offer.get(ALIASES.get(name, name))


def _wanted(name: str, want: Any) -> Any:
    """Return the value of a filter as offers hold it: a name without underscores, a driver's version as a number."""
    if isinstance(want, list):
        return [_wanted(name, one) for one in want]
    if name == "gpu_name":
        return str(want).replace("_", " ")
    if name == "driver_version" and all(part.isdecimal() for part in str(want).split(".")) and "." in str(want):
        return sum(int(part) * unit for part, unit in zip(str(want).split("."), DRIVER_PARTS, strict=False))
    return want


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, float(value)) if isinstance(value, int | float) else (1, str(value))


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _same(have: Any, want: Any) -> bool:
    left, right = _number(have), _number(want)
    if left is not None and right is not None:
        return left == right
    return str(have).casefold() == str(want).casefold()


def _holds(have: Any, op: str, want: Any) -> bool:
    if op in ("eq", "neq"):
        return _same(have, want) == (op == "eq")
    if op in ("in", "notin"):
        return any(_same(have, one) for one in want) == (op == "in")
    left, right = _number(have), _number(want)
    if left is None or right is None:
        return False
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[op]
