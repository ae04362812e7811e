"""The front of a gateway: a second Caddy process whose config never changes, and so never drops a connection.

Why there is one: docs/gateway.md. With an admin socket it also carries the gateway's admin API, under /admin/ and
behind a key of its own. Pure. Called by `launch` for a rented gateway, and by harness/caddy.py for tests and bench.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.caddy.config import bearer, limits, seconds, server_config
from components.caddy.spec import Certificate, Json

NAME = "front"
ADMIN_PREFIX = "/admin"
# a gateway that is just being restarted is waited for
RETRY_FOR_S = 5.0
MAX_BYTES = 16 << 20


def front_proxy_config(
    listen: str,
    back_socket: str,
    certificate: Certificate | None,
    *,
    admin_socket: str = "",
    admin_key: str = "",
) -> dict[str, Json]:
    """Return the front's whole config; without a certificate it speaks plain HTTP.

    `admin_key` may be one of Caddy's placeholders, {env.NAME} or {file./path}.
    """
    routes: list[Json] = []
    if admin_socket:
        handlers = [
            {"handler": "rewrite", "strip_path_prefix": ADMIN_PREFIX},
            # what is left of a browser's headers would make the admin API look at origins
            _to(admin_socket, delete=["Authorization", "Origin", "Referer", "Sec-Fetch-Mode"]),
        ]
        admin = {"path": [f"{ADMIN_PREFIX}/*"], **bearer([admin_key])}
        routes.append({"match": [admin], "handle": handlers, "terminal": True})
    routes += [*limits(MAX_BYTES), {"handle": [_to(back_socket)]}]
    return {"admin": {"disabled": True}, **server_config(NAME, listen, routes, certificate)}


def _to(socket: str, *, delete: Sequence[str] = ()) -> dict[str, Json]:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{socket}"}],
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        "request_buffers": MAX_BYTES + 1,
        "load_balancing": {
            "try_duration": seconds(RETRY_FOR_S),
            "try_interval": "20ms",
            "retry_match": [{"method": ["GET", "POST"]}],
        },
        **({"headers": {"request": {"delete": list(delete)}}} if delete else {}),
    }
