"""Lists by the page: a token is where the page before ended, by value, so that no row is lost while others come and go.

Called by the handlers of lists.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from emulator.errors import refusal
from emulator.filters import Order, compared, ordered

Row = dict[str, Any]


def page(
    rows: list[Row], order: Order, limit: int, token: str | None, *, key: str = "id"
) -> tuple[list[Row], str | None]:
    """Return a page and the token of the next one, None at the end. `key` tells rows apart that are equal in order.

    Raises the API's invalid_token.
    """
    order = [*order, (key, "asc")]
    rows = ordered(rows, order)
    if token:
        last = _read(token, order)
        rows = [row for row in rows if compared(order, row, last) > 0]
    shown = rows[:limit]
    return shown, _written(shown[-1], order) if len(rows) > limit else None


def _written(row: Row, order: Order) -> str:
    values = {name: row.get(name) for name, _ in order}
    return base64.urlsafe_b64encode(json.dumps({"values": values}).encode()).decode()


def _read(token: str, order: Order) -> Row:
    try:
        values = json.loads(base64.urlsafe_b64decode(token))["values"]
        return {name: values[name] for name, _ in order}
    except (ValueError, KeyError, TypeError):
        raise refusal("invalid_token") from None
