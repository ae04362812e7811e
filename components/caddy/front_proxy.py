"""The front of a gateway: a second Caddy process. Its config never changes, so it never drops a connection.

docs/gateway.md explains the reason. With an admin socket the front also serves the gateway's admin API under /admin/,
with a separate key. Pure. Called by `launch` for a rented gateway, and by harness/caddy.py for tests and bench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.caddy.config import (
    AUTH_ONLY,
    bearer,
    body_limits,
    client_certificate_route,
    declared_size_limit,
    duration,
    inner_server,
    route,
    server_config,
)
from components.caddy.spec import Certificate, GatewayPolicy
from components.vast.json_values import Json

NAME = "front"
ADMIN_PREFIX = "/admin"
RETRY_FOR_S = 5.0  # enough for a restart of the gateway
MAX_BYTES = 16 << 20
# Limits of bodies in memory: of a declared size under 4 MB, and all others. Further requests wait for WAIT_FOR_S.
MAX_SMALL_BODIES, MAX_LARGE_BODIES = 256, 8
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
    """Return the front's whole config; without a certificate it uses plain HTTP. With a `client_ca` (PEM) every route
    except the admin API needs a client certificate.

    The front first sends each request to the gateway without its body. A refusal is the answer. Otherwise the front
    reads the whole body, within limits. `admin_key` may be a Caddy placeholder: {env.NAME} or {file./path}.
    """
    routes: list[Json] = []
    if admin_socket:
        handlers = [
            {"handler": "rewrite", "strip_path_prefix": ADMIN_PREFIX},
            # with these headers of a browser the admin API would check the origin
            _proxy(admin_socket, delete=["Authorization", "Origin", "Referer", "Sec-Fetch-Mode"]),
        ]
        admin = {"path": [f"{ADMIN_PREFIX}/*"], **bearer([admin_key])}
        routes.append({"match": [admin], "handle": handlers, "terminal": True})
    if client_ca:
        routes.append(client_certificate_route())
    small, large = f"unix/{back_socket}.small", f"unix/{back_socket}.large"
    without_body = {"rewrite": {"method": "GET"}}
    allowed = {"match": {"status_code": [2]}, "routes": [{"handle": [{"handler": "vars"}]}]}
    routes += [
        {"handle": [_proxy(back_socket, add={AUTH_ONLY: ["1"]}) | without_body | {"handle_response": [allowed]}]},
        route(_proxy(back_socket) | without_body, {"method": ["GET"]}),
        declared_size_limit(MAX_BYTES),
        route(_stream(small, MAX_SMALL_BODIES), {"header_regexp": {"Content-Length": {"pattern": r"^[0-3]?\d{1,6}$"}}}),
        {"handle": [_stream(large, MAX_LARGE_BODIES)]},
    ]
    config = server_config(
        NAME, listen, routes, certificate, policy or GatewayPolicy(), client_ca=client_ca, client_mode="verify_if_given"
    )
    bodies = [*body_limits(MAX_BYTES), {"handle": [_proxy(back_socket)]}]
    config["apps"]["http"]["servers"]["bodies"] = inner_server([f"{small}|0600", f"{large}|0600"], bodies)
    return {"admin": {"disabled": True}, **config}


def _stream(dial: str, max_requests: int) -> dict[str, Json]:
    """Return a proxy that streams bodies to the server that buffers them, for at most `max_requests` at a time."""
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": dial, "max_requests": max_requests}],
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        "load_balancing": {"try_duration": duration(WAIT_FOR_S), "try_interval": "20ms"},
    }


def _proxy(socket: str, *, add: Mapping[str, list[str]] | None = None, delete: Sequence[str] = ()) -> dict[str, Json]:
    """Return a proxy that repeats a request after a broken connection, and after 503 unless it has headers to `add`.

    A gateway's old config answers 503 at once to requests that it cannot repeat itself after a config change.
    """
    operations = {"set": add, "delete": delete} if add else {"delete": [*delete, AUTH_ONLY]}
    interrupted = [] if add else [{"expression": "{http.reverse_proxy.status_code} == 503"}]
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{socket}"}],
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        "request_buffers": MAX_BYTES + 1,
        "load_balancing": {
            "try_duration": duration(RETRY_FOR_S),
            "try_interval": "20ms",
            "retry_match": [*interrupted, {"method": ["GET", "POST"]}],
        },
        "headers": {"request": operations},
    }
