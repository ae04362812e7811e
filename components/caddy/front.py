"""The front of a gateway: a second Caddy process whose config never changes, and so never drops a connection.

A Caddy that takes a new config closes connections that are idle or just made, and a client that sends a request on one
sees it cut off: HTTP/1.1 has no way to say so in time (over HTTP/2 it has). Also, Linux resets what waits in the queue
of a listener that is closed (net.ipv4.tcp_migrate_req 0). So where a gateway's upstreams move under load, clients talk
to this process, which ends TLS and hands every request to the gateway over a unix socket. That listener is handed on
from config to config; a connection that the change catches all the same is made again, with the body that was kept.

With an admin socket the front also carries the gateway's admin API, under /admin/ and behind a key of its own.
Pure. Called by `launch` for a rented gateway, by the CLI for others, by tests and bench.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.caddy.config import bearer, connection_policy, error_routes, limits, seconds
from components.caddy.record import Certificate, Json

NAME = "front"
ADMIN_PREFIX = "/admin"
# a gateway that is just being restarted is waited for
RETRY_FOR_S = 5.0
MAX_BYTES = 16 << 20


def front(
    listen: str,
    back_socket: str,
    certificate: Certificate | None,
    *,
    admin_socket: str = "",
    admin_key: str = "",
    max_bytes: int = MAX_BYTES,
) -> dict[str, Json]:
    """Return the front's whole config. `certificate`: files or PEM; without one it speaks plain HTTP.

    `max_bytes` is at least the gateway's own limit. `admin_key` may be a placeholder, {env.NAME} or {file./path}.
    """
    routes: list[Json] = []
    if admin_socket:
        routes.append(
            {
                "match": [{"path": [f"{ADMIN_PREFIX}/*"], **bearer([admin_key])}],
                "handle": [
                    {"handler": "rewrite", "strip_path_prefix": ADMIN_PREFIX},
                    # what is left of a browser's headers would make the admin API look at origins
                    _to(admin_socket, max_bytes, delete=["Authorization", "Origin", "Referer", "Sec-Fetch-Mode"]),
                ],
                "terminal": True,
            }
        )
    routes += [*limits(max_bytes), {"handle": [_to(back_socket, max_bytes)]}]
    server: dict[str, Json] = {
        "listen": [listen],
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        "routes": routes,
        "errors": {"routes": error_routes()},
    }
    apps: dict[str, Json] = {"http": {"servers": {NAME: server}}}
    if certificate is not None:
        server["tls_connection_policies"] = [connection_policy(certificate, NAME)]
        pair = {"certificate": certificate.certificate, "key": certificate.private_key, "tags": [NAME]}
        apps["tls"] = {"certificates": {"load_pem" if certificate.kind == "pem" else "load_files": [pair]}}
    return {"admin": {"disabled": True}, "apps": apps}


def _to(socket: str, max_bytes: int, *, delete: Sequence[str] = ()) -> dict[str, Json]:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{socket}"}],
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        "request_buffers": max_bytes + 1,
        "load_balancing": {
            "try_duration": seconds(RETRY_FOR_S),
            "try_interval": "20ms",
            "retry_match": [{"method": ["GET", "POST"]}],
        },
        **({"headers": {"request": {"delete": list(delete)}}} if delete else {}),
    }
