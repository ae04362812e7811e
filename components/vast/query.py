"""Offer query: parses the user's query into the API's filters, and applies the same filters to offers locally.

Called by `market` for a search, and by `change` to check the machine of a running instance. The syntax is that of the
official CLI (`vastai search offers --help`); the official parser parses it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from components.errors import QueryError
from components.vast.json_values import Json, Wire

Filters = dict[str, dict[str, Json]]
OfferType = Literal["on-demand", "bid"]

# Filters that `vastai search offers` sends by default (vastai 1.9.1).
CLI_DEFAULTS: Mapping[str, Mapping[str, Json]] = {
    "verified": {"eq": True},
    "external": {"eq": False},
    "rentable": {"eq": True},
}
CLI_ORDER = (("score", "desc"),)
CLI_STORAGE_GB = 5.0
OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "in", "notin")

_SYMBOLS = {"gte": ">=", "lte": "<=", "gt": ">", "lt": "<", "eq": "=", "neq": "!=", "in": " in ", "notin": " notin "}
_TERM = re.compile(
    r"\s*(?P<field>[A-Za-z0-9_]+)\s*"
    r"(?P<op>>=|<=|!=|==|=|>|<|(?:not ?in|nin|in|not ?eq|neq|eq|gte|gt|lte|lt)(?=[\s\[\"]))"
    r"\s*(?P<value>\[[^\]]+\]|\"[^\"]+\"|[^\s=<>!\[\]\"]+)(?=\s|$)"
)


@dataclass(frozen=True)
class Constraint:
    """A condition on offers that does not come from the user's query, with its reason."""

    field: str
    op: str
    value: Json
    because: str

    def __str__(self) -> str:
        return f"{describe(self.field, self.op, self.value)} ({self.because})"


@dataclass(frozen=True)
class Query:
    """A search: filters by field and operator, order, offer type, and the disk included in prices."""

    filters: Filters
    order: tuple[tuple[str, str], ...] = CLI_ORDER
    offer_type: OfferType = "on-demand"
    allocated_storage_gb: float = CLI_STORAGE_GB

    def body(self) -> dict[str, Json]:
        """Return the JSON body of `POST /api/v0/bundles/`, equal to the CLI's for the same query."""
        return {
            **{field: dict(ops) for field, ops in self.filters.items()},
            "order": [list(pair) for pair in self.order],
            "type": self.offer_type,
            "allocated_storage": float(self.allocated_storage_gb),
        }

    def with_constraints(self, constraints: Iterable[Constraint]) -> Query:
        """Return the query with `constraints` added. If both limit the same field, the tighter limit applies."""
        filters = {field: dict(ops) for field, ops in self.filters.items()}
        for constraint in constraints:
            ops = filters.setdefault(constraint.field, {})
            ops[constraint.op] = _tighter(constraint.op, ops.get(constraint.op), constraint.value)
        return Query(filters, self.order, self.offer_type, self.allocated_storage_gb)


def parse(text: str | Mapping[str, Json] | None) -> Filters:
    """Return the filters of a query: a text in the CLI's syntax, or a map {field: {operator: value}}.

    Includes CLI_DEFAULTS, unless the query overrides them. Raises QueryError with the position of the syntax error, or
    the nearest names of an unknown field.
    """
    filters: Filters = {field: dict(ops) for field, ops in CLI_DEFAULTS.items()}
    if text is None:
        return filters
    if not isinstance(text, str):
        return filters | _parse_map(text)
    _check_syntax(text)
    official = official_parser()
    try:
        filters = official.parse_query(
            text, filters, official.offers_fields, official.offers_alias, official.offers_mult
        )
    except ValueError as error:
        raise QueryError(f"query cannot be read: {error}") from None
    return filters


def _parse_map(query: Mapping[str, Json]) -> Filters:
    filters: Filters = {}
    for field, ops in query.items():
        _check_field(field, official_parser().offers_fields, position=None)
        if not isinstance(ops, Mapping) or not ops or any(op not in OPERATORS for op in ops):
            raise QueryError(f"query field {field!r} needs {{operator: value}} with operators {', '.join(OPERATORS)}")
        filters[field] = dict(ops)
    return filters


def _check_syntax(text: str) -> None:
    """Raise QueryError for the first term that is not `field operator value`, or has an unknown field."""
    official = official_parser()
    known = set(official.offers_fields) | set(official.offers_alias)
    position = 0
    while text[position:].strip():
        term = _TERM.match(text, position)
        if term is None:
            start = len(text) - len(text[position:].lstrip())
            raise QueryError(
                f"query cannot be read at position {start + 1}: {text[start : start + 30]!r}; expected a term like "
                "gpu_ram>=16, gpu_name=RTX_4090 or 'geolocation in [US,CA]'"
            )
        _check_field(term["field"], known, position=term.start("field") + 1)
        value = term["value"].strip('"')
        if term["field"] in official.offers_mult and value not in ("any", "*", "?") and not _is_number(value):
            raise QueryError(
                f"query cannot be read at position {term.start('value') + 1}: {term['field']} needs a number, "
                f"not {value!r}"
            )
        position = term.end()


def _check_field(field: str, known: Iterable[str], position: int | None) -> None:
    names = sorted(known)
    if field not in names:
        near = difflib.get_close_matches(field, names, 3) or names[:3]
        where = f" at position {position}" if position else ""
        raise QueryError(f"query has an unknown field{where}: {field!r}; nearest: {', '.join(near)}")


@functools.cache
def official_parser() -> ModuleType:
    """Load the official CLI's query module from its file, because an import of its package takes 0.8 s."""
    package = importlib.util.find_spec("vastai")
    if package is None or package.origin is None:
        raise QueryError("the vastai package is not installed; run `pip install -r requirements.txt`")
    path = Path(package.origin).parent / "api" / "query.py"
    spec = importlib.util.spec_from_file_location("vastai_query_syntax", path)
    if spec is None or spec.loader is None:
        raise QueryError(f"the query parser of the installed vastai package is not at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unmet_conditions(filters: Filters, raw: Wire, *, now: float) -> list[str]:
    """Return the conditions that an offer (or its record) does not satisfy, as text.

    Needed because the API does not always apply its own filters. A field that the offer does not have counts as
    satisfied. `now`: seconds since the epoch; `duration` is the time from `now` to `end_date`.
    """
    return [
        f"{describe(field, op, limit)} (it has {_short(field, value)})"
        for field, ops in filters.items()
        if (value := value_of(field, raw, now)) is not None
        for op, limit in ops.items()
        if not satisfies(value, op, limit)
    ]


def unknown_conditions(filters: Filters, raw: Wire, *, now: float) -> list[str]:
    """Return the conditions on fields that an offer (or its record) does not have, as text."""
    return [
        describe(field, op, limit)
        for field, ops in filters.items()
        if value_of(field, raw, now) is None
        for op, limit in ops.items()
    ]


def satisfies(value: Json, op: str, limit: Json) -> bool:
    """Whether `value op limit` is true. Numeric strings are compared as numbers, as in the API."""
    if op in ("in", "notin"):
        items = limit if isinstance(limit, list | tuple) else [limit]
        return any(_equal(value, item) for item in items) == (op == "in")
    if op in ("eq", "neq"):
        return _equal(value, limit) == (op == "eq")
    if not (_is_number(value) and _is_number(limit)):
        return True
    left, right = float(value), float(limit)
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[op]


def describe(field: str, op: str, value: Json) -> str:
    """Return a condition in the query's syntax."""
    text = f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else _short(field, value)
    return f"{field}{_SYMBOLS[op]}{text}"


def value_of(field: str, raw: Wire, now: float) -> Json:
    """Return an offer's value for a field of the query; None if it has none."""
    if field == "verified":
        return None if raw.get("verification") is None else raw["verification"] == "verified"
    if field == "datacenter":
        return None if raw.get("hosting_type") is None else raw["hosting_type"] == 1
    if field == "duration":
        return None if not _is_number(raw.get("end_date")) else float(raw["end_date"]) - now
    if field == "geolocation":
        place = str(raw.get("geolocation") or "").strip()
        return place[-2:] if place else None
    if field == "driver_version":
        return raw.get("driver_vers")
    return raw.get(field)


def _tighter(op: str, bound: Json, other: Json) -> Json:
    if bound is None or op not in ("gte", "gt", "lte", "lt", "in"):
        return other
    if op == "in":
        return [item for item in bound if any(_equal(item, option) for option in other)]
    return (max if op in ("gte", "gt") else min)(bound, other, key=float)


def _equal(left: Json, right: Json) -> bool:
    if _is_number(left) and _is_number(right):
        return float(left) == float(right)
    return str(left).casefold() == str(right).casefold()


def _is_number(value: Json) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _short(field: str, value: Json) -> str:
    """Return a value in the unit of the query's syntax: GB of memory, days of duration."""
    unit = official_parser().offers_mult.get(field)
    if unit and _is_number(value):
        value = float(value) / unit
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
