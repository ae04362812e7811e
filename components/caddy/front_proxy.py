"""The front of a gateway: a second Caddy process whose config never changes, and so never drops a connection.

Why there is one: docs/gateway.md. With an admin socket it also carries the gateway's admin API, under /admin/ and
behind a key of its own. Pure. Called by `launch` for a rented gateway, and by harness/caddy.py for tests and bench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.caddy.config import (
    ASKS,
    bearer,
    cut_off,
    inner_server,
    limits,
    refuse_uncertified,
    route,
    seconds,
    server_config,
)
from components.caddy.spec import Certificate, GatewayPolicy
from components.vast.json_values import Json

NAME = "front"
ADMIN_PREFIX = "/admin"
# a gateway that is just being restarted is waited for
RETRY_FOR_S = 5.0
MAX_BYTES = 16 << 20
# How many bodies are in memory at once: those declared to be under 4 MB, and all others. More wait for so long.
LANES = (("small", 256), ("large", 8))
WAIT_FOR_S = 10.0


def front_proxy_config(
    listen: str,
    back_socket: str,
    certificate: Certificate | None,
    *,
    admin_socket: str = "",
    admin_key: str = "",
    policy: GatewayPolicy | None = None,
    client_ca: str = "",
) -> dict[str, Json]:
    """Return the front's whole config; without a certificate it speaks plain HTTP. With a `client_ca` (PEM) all but the
    admin API needs a client certificate.

    The gateway is asked about each request first, without its body, and its refusal is the answer. A request that it
    lets in is then read whole, in one of LANES. `admin_key` may be one of Caddy's placeholders, {env.NAME} or
    {file./path}.
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
    if client_ca:
        routes.append(refuse_uncertified())
    small, large = (f"{back_socket}.{name}" for name, _ in LANES)
    without_body = {"rewrite": {"method": "GET"}}
    go_on = {"match": {"status_code": [2]}, "routes": [{"handle": [{"handler": "vars"}]}]}
    routes += [
        {"handle": [_to(back_socket, add={ASKS: ["1"]}) | without_body | {"handle_response": [go_on]}]},
        route(_to(back_socket) | without_body, {"method": ["GET"]}),
        cut_off(MAX_BYTES),
        route(_lane(small, LANES[0][1]), {"header_regexp": {"Content-Length": {"pattern": r"^[0-3]?\d{1,6}$"}}}),
        {"handle": [_lane(large, LANES[1][1])]},
    ]
    config = server_config(
        NAME, listen, routes, certificate, policy or GatewayPolicy(), client_ca=client_ca, client_mode="verify_if_given"
    )
    bodies = [*limits(MAX_BYTES), {"handle": [_to(back_socket)]}]
    config["apps"]["http"]["servers"]["bodies"] = inner_server([f"unix/{one}|0600" for one in (small, large)], bodies)
    return {"admin": {"disabled": True}, **config}


def _lane(socket: str, max_requests: int) -> dict[str, Json]:
    """Pass a body on as it comes to the server that reads it whole; at most so many requests at once."""
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{socket}", "max_requests": max_requests}],
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        "load_balancing": {"try_duration": seconds(WAIT_FOR_S), "try_interval": "20ms"},
    }


def _to(socket: str, *, add: Mapping[str, Sequence[str]] | None = None, delete: Sequence[str] = ()) -> dict[str, Json]:
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
        "headers": {"request": {"set": add, "delete": delete}} if add else {"request": {"delete": [*delete, ASKS]}},
    }
