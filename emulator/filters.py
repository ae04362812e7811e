"""The query language of the API: {field: {operator: value}} with numeric strings, order, at most 64 offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cmp_to_key, partial
from typing import Any

from emulator.errors import refusal

CAP = 64
CONTROL = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling", "resource_type", "select_cols"})
OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "in", "notin")
# The documented values and those that clients send; the official client sends on-demand.
TYPES = ("ondemand", "on-demand", "bid", "interruptible", "reserved")
ALIASES = {"ubuntu_version": "os_version"}
DRIVER_PARTS = (1_000_000, 1000, 1)


def matches(offer: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Return whether an offer satisfies a query. `id` matches nothing, as in the real API."""
    for name, ops in query.items():
        if name in CONTROL or not isinstance(ops, Mapping):
            continue
        if name == "id":
            return False
        if not satisfies(_value(offer, name), {op: _normalize(name, value) for op, value in ops.items()}):
            return False
    return True


def satisfies(actual: Any, ops: Mapping[str, Any]) -> bool:
    """Return whether a value satisfies all operators. Raises ServiceError for an unknown operator."""
    for op, value in ops.items():
        if op not in OPERATORS:
            raise refusal("invalid_search", what=f"unknown operator {op}; there are {', '.join(OPERATORS)}")
        if not _satisfies_operator(actual, op, value):
            return False
    return True


def satisfies_all(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    return all(satisfies(row.get(name), ops) for name, ops in filters.items())


def select(offers: Iterable[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the offers that satisfy a query, sorted, at most 64. Raises ServiceError."""
    if query.get("type", TYPES[0]) not in TYPES:
        raise refusal("invalid_search", what=f"type is one of {', '.join(TYPES)}")
    rows = sort_rows([offer for offer in offers if matches(offer, query)], query.get("order") or [])
    return rows[: min(int(query.get("limit") or CAP), CAP)]


Order = list[tuple[str, str]]


def sort_rows(rows: list[dict[str, Any]], order: Iterable[Iterable[str]]) -> list[dict[str, Any]]:
    """Return rows sorted by pairs of [name, "asc" or "desc"]; the first pair has priority."""
    pairs = [(name, direction) for name, direction in order]
    return sorted(rows, key=cmp_to_key(partial(compare_rows, pairs)))


def compare_rows(order: Order, left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    """Return -1, 0 or 1: `left` sorts before, with or after `right`."""
    for name, direction in order:
        first, second = _sortable(left.get(name)), _sortable(right.get(name))
        if first != second:
            return -1 if (first < second) == (direction != "desc") else 1
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


def _normalize(name: str, value: Any) -> Any:
    """Return a filter's value in the form of offers: a name without underscores, a driver version as a number."""
    if isinstance(value, list):
        return [_normalize(name, item) for item in value]
    if name == "gpu_name":
        return str(value).replace("_", " ")
    if name == "driver_version" and all(part.isdecimal() for part in str(value).split(".")) and "." in str(value):
        return sum(int(part) * unit for part, unit in zip(str(value).split("."), DRIVER_PARTS, strict=False))
    return value


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, float(value)) if isinstance(value, int | float) else (1, str(value))


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _equal(actual: Any, value: Any) -> bool:
    left, right = _number(actual), _number(value)
    if left is not None and right is not None:
        return left == right
    return str(actual).casefold() == str(value).casefold()


def _satisfies_operator(actual: Any, op: str, value: Any) -> bool:
    if op in ("eq", "neq"):
        return _equal(actual, value) == (op == "eq")
    if op in ("in", "notin"):
        return any(_equal(actual, item) for item in value) == (op == "in")
    left, right = _number(actual), _number(value)
    if left is None or right is None:
        return False
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[op]
