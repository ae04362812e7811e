"""The offer query: from what a user writes to what the API receives, and the same rules applied on this side.

Called by `market` for a search, and by `change`: does the running machine still satisfy? The syntax is the official
CLI's (`vastai search offers --help`) and is parsed by the official parser.
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

# What `vastai search offers` sends when the user says nothing about these fields (vastai 1.9.1).
CLI_DEFAULTS: Mapping[str, Mapping[str, Json]] = {
    "verified": {"eq": True},
    "external": {"eq": False},
    "rentable": {"eq": True},
}
CLI_ORDER = (("score", "desc"),)
CLI_STORAGE_GB = 5.0
OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "in", "notin")

_WORDS = {"gte": ">=", "lte": "<=", "gt": ">", "lt": "<", "eq": "=", "neq": "!=", "in": " in ", "notin": " notin "}
_TERM = re.compile(
    r"\s*(?P<field>[A-Za-z0-9_]+)\s*"
    r"(?P<op>>=|<=|!=|==|=|>|<|(?:not ?in|nin|in|not ?eq|neq|eq|gte|gt|lte|lt)(?=[\s\[\"]))"
    r"\s*(?P<value>\[[^\]]+\]|\"[^\"]+\"|[^\s=<>!\[\]\"]+)(?=\s|$)"
)


@dataclass(frozen=True)
class Constraint:
    """One condition on offers that the user did not write, with the reason it is there."""

    field: str
    op: str
    value: Json
    because: str

    def __str__(self) -> str:
        return f"{describe(self.field, self.op, self.value)} ({self.because})"


@dataclass(frozen=True)
class Query:
    """A search: filters by field and operator, order, offer type and the disk that prices are quoted for."""

    filters: Filters
    order: tuple[tuple[str, str], ...] = CLI_ORDER
    offer_type: OfferType = "on-demand"
    allocated_storage_gb: float = CLI_STORAGE_GB

    def body(self) -> dict[str, Json]:
        """Return the JSON that `POST /api/v0/bundles/` receives; for a plain query the bytes that the CLI sends."""
        return {
            **{field: dict(ops) for field, ops in self.filters.items()},
            "order": [list(pair) for pair in self.order],
            "type": self.offer_type,
            "allocated_storage": float(self.allocated_storage_gb),
        }

    def with_constraints(self, constraints: Iterable[Constraint]) -> Query:
        """Return the query with `constraints` added; where both bound the same field the tighter bound stays."""
        filters = {field: dict(ops) for field, ops in self.filters.items()}
        for constraint in constraints:
            ops = filters.setdefault(constraint.field, {})
            ops[constraint.op] = _tighter(constraint.op, ops.get(constraint.op), constraint.value)
        return Query(filters, self.order, self.offer_type, self.allocated_storage_gb)


def parse(text: str | Mapping[str, Json] | None) -> Filters:
    """Return the filters of a query in the CLI's syntax, or given as {field: {operator: value}}.

    The CLI's own three (verified, not external, rentable) are there unless the query says otherwise.
    Raises QueryError with the position of what cannot be read, or the nearest names of an unknown field.
    """
    start: Filters = {field: dict(ops) for field, ops in CLI_DEFAULTS.items()}
    if text is None:
        return start
    if not isinstance(text, str):
        return start | _typed(text)
    _locate_fault(text)
    official = official_parser()
    try:
        parsed: Filters = official.parse_query(
            text, start, official.offers_fields, official.offers_alias, official.offers_mult
        )
    except ValueError as error:
        raise QueryError(f"query cannot be read: {error}") from None
    return parsed


def _typed(given: Mapping[str, Json]) -> Filters:
    known = official_parser().offers_fields
    filters: Filters = {}
    for field, ops in given.items():
        _known_field(field, known, position=None)
        if not isinstance(ops, Mapping) or not ops or any(op not in OPERATORS for op in ops):
            raise QueryError(f"query field {field!r} needs {{operator: value}} with operators {', '.join(OPERATORS)}")
        filters[field] = dict(ops)
    return filters


def _locate_fault(text: str) -> None:
    """Raise QueryError at the first term that is not `field operator value`, or whose field does not exist."""
    official = official_parser()
    known = set(official.offers_fields) | set(official.offers_alias)
    at = 0
    while text[at:].strip():
        term = _TERM.match(text, at)
        if term is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise QueryError(
                f"query cannot be read at position {start + 1}: {text[start : start + 30]!r}; expected a term like "
                "gpu_ram>=16, gpu_name=RTX_4090 or 'geolocation in [US,CA]'"
            )
        _known_field(term["field"], known, position=term.start("field") + 1)
        value = term["value"].strip('"')
        if term["field"] in official.offers_mult and value not in ("any", "*", "?") and not _is_number(value):
            raise QueryError(
                f"query cannot be read at position {term.start('value') + 1}: {term['field']} needs a number, "
                f"not {value!r}"
            )
        at = term.end()


def _known_field(field: str, known: Iterable[str], position: int | None) -> None:
    names = sorted(known)
    if field not in names:
        near = difflib.get_close_matches(field, names, 3) or names[:3]
        where = f" at position {position}" if position else ""
        raise QueryError(f"query has an unknown field{where}: {field!r}; nearest: {', '.join(near)}")


@functools.cache
def official_parser() -> ModuleType:
    """Load the official CLI's query module from its file: importing the package around it takes 0.8 s."""
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
    """Return the conditions that an offer's (or a record's) fields break, in words; empty when it satisfies all.

    The API does not always apply its own filters, so every offer is judged again here. A field that the offer does
    not carry is not held against it. `now` is epoch seconds: `duration` is read as the time left until `end_date`.
    """
    broken = []
    for field, ops in filters.items():
        have = value_of(field, raw, now)
        if have is None:
            continue
        wrong = [describe(field, op, want) for op, want in ops.items() if not satisfies(have, op, want)]
        broken += [f"{condition} (it has {_short(field, have)})" for condition in wrong]
    return broken


def unknown_conditions(filters: Filters, raw: Wire, *, now: float) -> list[str]:
    """Return the conditions on fields that an offer (or a record) does not carry, in words."""
    return [
        describe(field, op, want)
        for field, ops in filters.items()
        if value_of(field, raw, now) is None
        for op, want in ops.items()
    ]


def satisfies(have: Json, op: str, want: Json) -> bool:
    """Whether `have op want`, with numeric strings read as numbers, as the API reads them."""
    if op in ("in", "notin"):
        wanted = want if isinstance(want, list | tuple) else [want]
        return any(_equal(have, item) for item in wanted) == (op == "in")
    if op in ("eq", "neq"):
        return _equal(have, want) == (op == "eq")
    if not (_is_number(have) and _is_number(want)):
        return True
    left, right = float(have), float(want)
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[op]


def describe(field: str, op: str, value: Json) -> str:
    """Return one condition as a user would write it."""
    shown = f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else _short(field, value)
    return f"{field}{_WORDS[op]}{shown}"


def value_of(field: str, raw: Wire, now: float) -> Json:
    """Return what an offer has for a field of the query; None where it says nothing."""
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
        return [item for item in bound if any(_equal(item, one) for one in other)]
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
