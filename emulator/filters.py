"""The search language of the API: {field: {operator: value}} with numeric strings, order, and the cap of 64 offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CAP = 64
CONTROL = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling", "resource_type", "select_cols"})


def matches(offer: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether an offer satisfies a query. `id` matches nothing, as on the real service."""
    for name, ops in query.items():
        if name in CONTROL or not isinstance(ops, Mapping):
            continue
        if name == "id":
            return False
        for op, want in ops.items():
            if not _holds(_value(offer, name), op, want):
                return False
    return True


def select(offers: Iterable[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the offers that satisfy a query, ordered, at most 64."""
    found = [offer for offer in offers if matches(offer, query)]
    for name, direction in reversed(query.get("order") or []):
        found.sort(key=lambda offer, name=name: _sortable(offer.get(name)), reverse=direction == "desc")  # type: ignore[misc]
    limit = int(query.get("limit") or CAP)
    return found[: min(limit, CAP)]


def _value(offer: Mapping[str, Any], name: str) -> Any:
    if name == "geolocation":
        return str(offer.get("geolocation", ""))[-2:]
    if name == "driver_version":
        return offer.get("driver_vers")
    if name == "datacenter":
        return offer.get("hosting_type") == 1
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
