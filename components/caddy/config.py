"""Builds the whole Caddy config of a gateway from a frozen record. Pure. Called by the Gateway resource and bench.

A request passes these steps in order: 404 for a path that is not allowed, 401 without a valid key, 503 if there is no
upstream, 204 if the front only checks authorization, 413 for a large body, then a reverse proxy over all upstreams.
Each upstream has an internal server on a socket that adds its key and verifies its certificate name: Caddy's active
checks support only one key and one name per proxy. docs/gateway.md lists the assumptions about Caddy 2.11.7. Errors
have vLLM's JSON form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from components.caddy.spec import Acme, Certificate, GatewayPolicy, GatewaySpec, Upstream, der_certificates
from components.guard import keys, last_check
from components.guard.rules import ALLOW
from components.vast.json_values import Json

AUTH_ONLY = "X-Front-Asks"  # set by a front that has not read the body yet
# headers for the guard: the client's name, and the mark of a health check; the guard accepts them only with its own key
CLIENT, CHECK = keys.CLIENT.decode(), last_check.CHECK.decode()
# removed: a rented host must not learn the client's identity
IDENTIFYING_HEADERS = ["Cookie", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"]
CERTIFICATE = "gateway"  # the certificate's tag: the listener selects it for every requested name or IP
ERRORS = {  # vLLM's error type, and the message
    401: ("AuthenticationError", "a valid key is needed: Authorization: Bearer <key>"),
    403: ("PermissionDeniedError", keys.NO_CERTIFICATE),
    404: ("NotFoundError", "Not Found"),
    413: ("RequestTooLarge", "the body is too large"),
    500: ("InternalServerError", "the gateway failed"),
    502: ("BadGatewayError", "no reranker answered"),
    503: ("ServiceUnavailableError", "no reranker is available"),
    504: ("GatewayTimeoutError", "no reranker answered in time"),
}
DRAIN_BYTES = 64 << 20  # Caddy reads up to this size before it refuses a body that is too large
CHECKED_FOR_S = 1.0  # a request waits this long for a healthy upstream before it goes to any upstream
RETRY_AFTER_S = 60  # without upstreams: a boot takes some minutes
CADDY_ERRORS = (413, 502, 503, 504)  # statuses of Caddy itself with a text of their own; others get the text of 500


def gateway_config(gateway: GatewaySpec) -> dict[str, Json]:
    """Return the whole Caddy config of this gateway, except `admin`."""
    routes = [route({"handler": "subroute", "routes": _api_routes(gateway)}, _path(*ALLOW)), route(_error(404))]
    if gateway.retired:
        # No request gets here, but Caddy still counts those in flight to these addresses. They have no socket: Caddy
        # 2.11.7 may hold the lock of all sockets that it takes over until a connection arrives at one of them.
        retired = [{"dial": upstream.dial} for upstream in gateway.retired]
        routes.append({"handle": [{"handler": "reverse_proxy", "upstreams": retired}]})
    certificate = gateway.acme or gateway.certificate
    config = server_config(
        gateway.site, gateway.listen, routes, certificate, gateway.policy, client_ca=gateway.client_ca
    )
    config["apps"]["http"]["metrics"] = {}
    for upstream in gateway.upstreams:
        config["apps"]["http"]["servers"][upstream.dial] = _hop_server(gateway, upstream)
    return config


def server_config(
    name: str,
    listen: str,
    routes: list[Json],
    certificate: Certificate | Acme | None,
    policy: GatewayPolicy,
    *,
    client_ca: str = "",
    client_mode: str = "require_and_verify",
) -> dict[str, Json]:
    """Return a Caddy config with one server; without a certificate it uses plain HTTP. `client_mode`: Caddy's mode for
    client certificates, used with a `client_ca`.

    HTTP/1.1 only: an HTTP/2 connection without a key may buffer 1 MiB before the first handler runs.
    """
    server = inner_server([listen], routes) | {
        "max_header_bytes": policy.max_header_bytes,
        "read_header_timeout": duration(policy.header_timeout_s),
        "read_timeout": duration(policy.body_timeout_s),
        "read_idle_timeout": -1,  # off: when it expires, Caddy 2.11.7 removes the read deadline and waits for ever
        "idle_timeout": duration(policy.idle_timeout_s),
    }
    apps: dict[str, Json] = {"http": {"servers": {name: server}}}
    if certificate is not None:
        connections: dict[str, Json] = {}
        if isinstance(certificate, Acme):
            apps["tls"] = _automation(certificate, listen)
        else:
            connections["certificate_selection"] = {"any_tag": [CERTIFICATE]}
            pair = {"certificate": certificate.certificate, "key": certificate.private_key, "tags": [CERTIFICATE]}
            apps["tls"] = {"certificates": {certificate.loader: [pair]}}
        if client_ca:
            ca = {"provider": "inline", "trusted_ca_certs": der_certificates(client_ca)}
            connections["client_authentication"] = {"ca": ca, "mode": client_mode}
            # one policy for all names; otherwise a client that connects by IP (no SNI) gets 421
            server["strict_sni_host"] = False
        server["tls_connection_policies"] = [connections]
    return {"apps": apps}


def _automation(acme: Acme, listen: str) -> dict[str, Json]:
    issuer = {
        "module": "acme",
        "ca": acme.directory,
        "challenges": {"http": {"disabled": True}, "tls-alpn": {"alternate_port": int(listen.rpartition(":")[2])}},
        **({"email": acme.email} if acme.email else {}),
        **({"trusted_roots_pem_files": [acme.directory_ca_file]} if acme.directory_ca_file else {}),
    }
    names = list(acme.names)
    return {"certificates": {"automate": names}, "automation": {"policies": [{"subjects": names, "issuers": [issuer]}]}}


def client_certificate_route() -> dict[str, Json]:
    """Return the route that answers 403, without reading the body, on connections without a client certificate."""
    return route(_error(403), {"vars": {"{http.request.tls.client.certificate_der_base64}": [""]}})


def inner_server(listen: list[str], routes: list[Json]) -> dict[str, Json]:
    """Return a server without deadlines; its errors have vLLM's form."""
    errors = [route(_error(code), {"vars": {"{http.error.status_code}": [str(code)]}}) for code in CADDY_ERRORS]
    return {
        "listen": listen,
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "routes": routes,
        "errors": {"routes": [*errors, {"handle": [_error(500, status="{http.error.status_code}")]}]},
    }


def _api_routes(gateway: GatewaySpec) -> list[Json]:
    unauthorized = _error(401)
    unauthorized["headers"]["WWW-Authenticate"] = ["Bearer"]
    no_upstreams = _error(503, message="no reranker is running")
    no_upstreams["headers"]["Retry-After"] = [str(RETRY_AFTER_S)]
    scoring = [
        route({"handler": "static_response", "status_code": 204}, {"header": {AUTH_ONLY: ["1"]}}),
        *body_limits(gateway.policy.max_bytes),
        {"handle": [{"handler": "vars", "body": "{http.request.body}"}]},
        route(_proxies(gateway)),
    ]
    return [
        route(unauthorized, {"not": [bearer(gateway.keys)]}),
        {"handle": [{"handler": "headers", "request": {"delete": [CLIENT, CHECK]}}]},
        *(
            {
                "match": [bearer([named.key])],
                "handle": [{"handler": "headers", "request": {"set": {CLIENT: [named.name]}}}],
            }
            for named in gateway.clients
        ),
        *(scoring if gateway.upstreams else [route(no_upstreams)]),
    ]


def route(handler: Json, match: Json = None) -> dict[str, Json]:
    """Return a terminal route for all requests, or for the requests of one matcher."""
    return {**({"match": [match]} if match else {}), "handle": [handler], "terminal": True}


def _path(*paths: str) -> dict[str, Json]:
    return {"vars": {"{http.request.uri.path}": list(paths)}}


def bearer(keys: Sequence[str]) -> dict[str, Json]:
    """Return the matcher of requests with exactly one Authorization header, equal to one of the keys.

    A placeholder without its variable or file becomes an empty key; no request matches an empty key.
    """
    sent = "{http.request.header.Authorization}"  # Caddy joins several with commas; no key contains a comma
    values = [f"{scheme} {key}" for key in keys for scheme in ("Bearer", "bearer")]
    return {"vars": {sent: values}, "not": [{"vars": {sent: ["Bearer ", "bearer "]}}]}


def body_limits(max_bytes: int) -> list[Json]:
    """Return the routes that read the body and then refuse it if it is larger than `max_bytes`: many clients read the
    answer only after they have sent everything.

    Above DRAIN_BYTES, declared or read, they refuse at once and close the connection. The proxy must not read the body:
    a client that sends too much or disconnects would count as a failure of the upstream.
    """
    too_long = {"expression": f"size(bytes({{http.request.body}})) > {max_bytes}"}
    return [
        declared_size_limit(max_bytes),
        {"handle": [{"handler": "request_body", "max_size": max(DRAIN_BYTES, max_bytes)}]},
        # this `vars` matcher makes Caddy read the body, and answer 413 at the limit above
        {"match": [{"vars": {"{http.request.body}": [""]}}], "handle": []},
        route(_too_large(max_bytes), too_long),
    ]


def declared_size_limit(max_bytes: int) -> dict[str, Json]:
    """Return the route that refuses a body without reading it if its declared length is above the read limit."""
    declared = {"expression": f"int({{http.request.header.Content-Length}}) > {max(DRAIN_BYTES, max_bytes)}"}
    refusal = {"handler": "subroute", "routes": [route(_too_large(max_bytes) | {"close": True}, declared)]}
    return {"match": [{"header": {"Content-Length": []}}], "handle": [refusal]}


def _too_large(max_bytes: int) -> dict[str, Json]:
    return _error(413, message=f"the body is larger than {max_bytes} bytes")


def _hop_server(gateway: GatewaySpec, upstream: Upstream) -> dict[str, Json]:
    """Return the internal server that forwards to one upstream, adds its key and verifies its certificate name."""
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": upstream.dial}],
        "transport": _transport(gateway, upstream),
        "headers": {"request": {"set": {"Authorization": [f"Bearer {upstream.key}"]}}},
    }
    listen = gateway.socket(upstream) + ("" if "/@" in gateway.sockets else "|0600")
    return inner_server([listen], [route(proxy, bearer([gateway.hop_key])), route(_error(404))])


def _proxies(gateway: GatewaySpec) -> dict[str, Json]:
    """Return the proxy to the healthy upstreams. If there is none, or the connection breaks, it tries every upstream: a
    health check may only have timed out behind other requests."""
    healthy, unchecked = _proxy(gateway, min(gateway.policy.retry_for_s, CHECKED_FOR_S)), _proxy(gateway)
    del unchecked["health_checks"]["active"]
    restore_body = {"handler": "request_body", "set": "{http.vars.body}"}  # the first proxy has consumed it
    unavailable = {"handler": "error", "status_code": "503"}
    return _with_fallback([healthy], [restore_body, _with_fallback([unchecked], [unavailable])])


def _with_fallback(handlers: list[Json], fallback: list[Json]) -> dict[str, Json]:
    """Return a handler that runs `fallback` after 502 or 503 (broken connection or no upstream); other errors stay."""
    broken = {"vars": {"{http.error.status_code}": ["502", "503"]}}
    same = {"handler": "error", "status_code": "{http.error.status_code}"}  # without a matching route the error is lost
    errors = [{"match": [broken], "handle": fallback, "terminal": True}, {"handle": [same]}]
    return {"handler": "subroute", "routes": [{"handle": handlers}], "errors": {"routes": errors}}


def _proxy(gateway: GatewaySpec, retry_for_s: float | None = None) -> dict[str, Json]:
    policy, authorization = gateway.policy, {"Authorization": [f"Bearer {gateway.hop_key}"]}
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": gateway.socket(upstream)} for upstream in gateway.upstreams],
        # no keep-alive: a config reload may close a reused connection during a request
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        # buffer the whole body for retries; body_limits keeps it below this size
        "request_buffers": policy.max_bytes + 1,
        "headers": {"request": {"set": authorization, "delete": [*IDENTIFYING_HEADERS]}},
        "load_balancing": {
            "selection_policy": {"policy": "least_conn"},
            "try_duration": duration(policy.retry_for_s if retry_for_s is None else retry_for_s),
            "try_interval": duration(policy.retry_every_s),
            # Caddy retries a POST only if one of these matches and the whole body was buffered. Scoring is idempotent.
            # The second matcher is for broken connections.
            "retry_match": [{"expression": "{http.reverse_proxy.status_code} in [502, 503]"}, _path(*ALLOW)],
        },
        "health_checks": {
            "active": {
                "method": "POST",
                "uri": "/rerank",
                "headers": {**authorization, "Content-Type": ["application/json"], CHECK: ["1"]},
                "body": json.dumps(gateway.readiness.request()),
                "interval": duration(policy.check_every_s),
                # a check waits in the same queue as requests, so its timeout is theirs
                "timeout": duration(policy.response_timeout_s),
                "passes": policy.check_passes,
                "fails": policy.check_fails,
                "expect_status": 200,
                "expect_body": gateway.readiness.pattern(),
                "max_size": 1 << 16,
            },
            "passive": {
                "fail_duration": duration(policy.passive_for_s),
                "max_fails": policy.passive_fails,
                "unhealthy_status": [502, 503],
            },
        },
    }


def _transport(gateway: GatewaySpec, upstream: Upstream) -> dict[str, Json]:
    policy = gateway.policy
    transport: dict[str, Json] = {
        "protocol": "http",
        "versions": ["1.1"],
        "dial_timeout": duration(policy.dial_timeout_s),
        "response_header_timeout": duration(policy.response_timeout_s),
        "keep_alive": {"idle_timeout": duration(policy.keep_alive_s), "max_idle_conns_per_host": 256},
        "network_proxy": {"from": "none"},
        "compression": False,
    }
    if not gateway.upstream_ca:
        return transport
    ca = {"provider": "inline", "trusted_ca_certs": der_certificates(gateway.upstream_ca)}
    tls = {"ca": ca, "server_name": upstream.certificate_name, "handshake_timeout": duration(policy.dial_timeout_s)}
    return transport | {"tls": tls}


def _error(code: int, *, message: str = "", status: str = "") -> dict[str, Json]:
    """Return a handler that answers with an error in vLLM's form."""
    kind, text = ERRORS[code]
    error = {"message": message or text, "type": kind, "param": None, "code": code}
    return {
        "handler": "static_response",
        "status_code": status or str(code),
        "headers": {"Content-Type": ["application/json"]},
        "body": json.dumps({"error": error}),
    }


def duration(seconds: float) -> str:
    """Return a duration in Caddy's notation."""
    return f"{seconds * 1000:.0f}ms"
