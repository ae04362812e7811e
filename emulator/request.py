"""What all calls have in common: a route, and how a request's body, ids and JSON parameters are read. Used by the
modules with the handlers (`account_routes`, `instance_routes`, `list_routes`, `offer_routes`) and by `routes`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from emulator.errors import refusal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """A documented path with its slash at the end; it answers without one as well.

    `endpoint` is the kind of call, by which faults are matched. Under published pacing a path takes `burst` calls in
    `burst` times `interval_s`.
    """

    method: str
    path: str
    endpoint: str
    handler: Handler
    interval_s: float = 1.0
    burst: int = 1

    @property
    def template(self) -> str:
        return f"{self.method} {self.path}"


async def body_of(request: web.Request, malformed: str = "invalid_format") -> dict[str, Any]:
    """Return a request's body, {} where there is none. Raises the refusal of the name given for all but an object."""
    text = await request.text()
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError:
        raise refusal(malformed) from None
    if not isinstance(body, dict):
        raise refusal(malformed)
    return body


def path_id(request: web.Request, name: str = "id") -> int:
    """Return a number in the path."""
    text = request.match_info[name]
    if not text.isdecimal():
        raise refusal("invalid_instance_id")
    return int(text)


def parameter(request: web.Request, name: str, default: Any) -> Any:
    """Return a parameter of the query that is JSON, of the same type as its default."""
    text = request.query.get(name)
    try:
        value = json.loads(text) if text else default
    except ValueError:
        raise refusal("invalid_query", what=f"{name} is not JSON") from None
    if value is None:
        return default
    if not isinstance(value, type(default)):
        raise refusal("invalid_query", what=f"{name} is not of the right type")
    return value
