"""A route, and the parsing of a request's body, ids and JSON parameters. Used by `routes` and `*_routes`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from emulator.errors import refusal


@dataclass(frozen=True)
class Route:
    """An API call. `path` ends with a slash; the server also accepts it without the slash.

    `endpoint` is the kind of call, for the match of faults. With published pacing, `burst` calls are accepted within
    `burst` * `interval_s` seconds.
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


async def read_body(request: web.Request, malformed: str = "invalid_format") -> dict[str, Any]:
    """Return the JSON object in the body, {} for an empty body. Raises the refusal `malformed` for other bodies."""
    text = await request.text()
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError:
        raise refusal(malformed) from None
    if not isinstance(body, dict):
        raise refusal(malformed)
    return body


def path_id(request: web.Request, name: str = "id") -> int:
    text = request.match_info[name]
    if not text.isdecimal():
        raise refusal("invalid_instance_id")
    return int(text)


def parameter(request: web.Request, name: str, default: Any) -> Any:
    """Return a JSON parameter of the query, of the type of its default. Raises ServiceError."""
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
