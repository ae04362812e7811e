"""The query language of the API: {field: {operator: value}} with numeric strings, order, and the cap of 64 offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CAP = 64
CONTROL = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling", "resource_type", "select_cols"})
OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "in", "notin")


def matches(offer: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether an offer satisfies a query. `id` matches nothing, as on the real service."""
    for name, ops in query.items():
        if name in CONTROL or not isinstance(ops, Mapping):
            continue
        if name == "id":
            return False
        if not satisfies(_value(offer, name), ops):
            return False
    return True


def satisfies(have: Any, ops: Mapping[str, Any]) -> bool:
    """Whether a value satisfies every operator. Raises ValueError for an operator that there is not."""
    for op, want in ops.items():
        if op not in OPERATORS:
            raise ValueError(f"unknown operator {op}; there are {', '.join(OPERATORS)}")
        if not _holds(have, op, want):
            return False
    return True


def select(offers: Iterable[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the offers that satisfy a query, ordered, at most 64."""
    found = ordered([offer for offer in offers if matches(offer, query)], query.get("order") or [])
    limit = int(query.get("limit") or CAP)
    return found[: min(limit, CAP)]


def ordered(rows: list[dict[str, Any]], order: Iterable[Iterable[str]]) -> list[dict[str, Any]]:
    """Return rows sorted by [name, "asc" or "desc"] pairs, the first pair first."""
    for name, direction in reversed([tuple(pair) for pair in order]):
        rows = _sorted(rows, name, down=direction == "desc")
    return rows


def _sorted(rows: list[dict[str, Any]], name: str, *, down: bool) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: _sortable(row.get(name)), reverse=down)


def _value(offer: Mapping[str, Any], name: str) -> Any:
    if name == "geolocation":
        return str(offer.get("geolocation", ""))[-2:]
    if name == "driver_version":
        return offer.get("driver_vers")
    if name == "datacenter":
        return offer.get("hosting_type") == 1
    if name == "verified":
        return offer.get("verification") == "verified"
    return offer.get(name)


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
