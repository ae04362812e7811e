"""Pagination: a token holds the values of the last row of a page, so that no row is lost when the list changes.

Called by the list calls in `*_routes`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from emulator.errors import refusal
from emulator.filters import Order, compare_rows, sort_rows

Row = dict[str, Any]


def page(
    rows: list[Row], order: Order, limit: int, token: str | None, *, key: str = "id"
) -> tuple[list[Row], str | None]:
    """Return a page and the token of the next page, None at the end. `key` orders rows that are equal in `order`.

    Raises ServiceError (invalid_token).
    """
    order = [*order, (key, "asc")]
    rows = sort_rows(rows, order)
    if token:
        last = _decode_token(token, order)
        rows = [row for row in rows if compare_rows(order, row, last) > 0]
    results = rows[:limit]
    return results, _encode_token(results[-1], order) if len(rows) > limit else None


def _encode_token(row: Row, order: Order) -> str:
    values = {name: row.get(name) for name, _ in order}
    return base64.urlsafe_b64encode(json.dumps({"values": values}).encode()).decode()


def _decode_token(token: str, order: Order) -> Row:
    try:
        values = json.loads(base64.urlsafe_b64decode(token))["values"]
        return {name: values[name] for name, _ in order}
    except (ValueError, KeyError, TypeError):
        raise refusal("invalid_token") from None
