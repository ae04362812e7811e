"""A gateway as the whole config of a Caddy: a pure function of a frozen record. Called by the Gateway resource, bench.

In the order a request meets it: path not on the list 404, no valid key 401, 204 for a front that asks only that, body
too large 413, then one reverse proxy over all upstreams, and behind it a server for each upstream, on a socket, which
puts in that one's key and checks its name: a proxy's active checks have one key and one name for all. What it takes for
granted of Caddy 2.11.7 is pinned by tests/gateway and told in docs/gateway.md. Every error is shaped as vLLM's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from components.caddy.spec import Acme, Certificate, GatewayPolicy, GatewaySpec, Upstream, ders
from components.guard import keys, last_check
from components.guard.rules import ALLOW
from components.vast.json_values import Json

ASKS = "X-Front-Asks"  # set by a front that has read no body yet
# by which a guard knows whose request it is; from here alone, as it takes the server's key
CLIENT, CHECK = keys.CLIENT.decode(), last_check.CHECK.decode()
CERTIFICATE = "gateway"  # the tag by which a listener finds the certificate, whatever name or IP a client asks for
ERRORS = {  # type, as vLLM names it, and message
    401: ("AuthenticationError", "a valid key is needed: Authorization: Bearer <key>"),
    403: ("PermissionDeniedError", keys.NO_CERTIFICATE),
    404: ("NotFoundError", "Not Found"),
    413: ("RequestTooLarge", "the body is too large"),
    500: ("InternalServerError", "the gateway failed"),
    502: ("BadGatewayError", "no reranker answered"),
    503: ("ServiceUnavailableError", "no reranker is available"),
    504: ("GatewayTimeoutError", "no reranker answered in time"),
}
DRAIN_BYTES = 64 << 20  # so much of a body that is too large is read
CHECKED_FOR_S = 1.0  # how long a request waits for an upstream that passes its checks, before any will do
RETRY_AFTER_S = 60  # without upstreams: a boot takes some minutes
KNOWN_ERRORS = (413, 502, 503, 504)  # those that Caddy itself meets, and that are named; any other is 500's text


def gateway_config(gateway: GatewaySpec) -> dict[str, Json]:
    """Return the whole config of a Caddy that is this gateway, but for its `admin`."""
    routes = [route({"handler": "subroute", "routes": _behind_the_path(gateway)}, _path(*ALLOW)), route(_error(404))]
    config = server_config(
        gateway.site,
        gateway.listen,
        routes,
        gateway.acme or gateway.certificate,
        gateway.policy,
        client_ca=gateway.client_ca,
    )
    config["apps"]["http"]["metrics"] = {}
    for one in (*gateway.upstreams, *gateway.retired):
        config["apps"]["http"]["servers"][one.dial] = _hop(gateway, one)
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
    """Return the config of a Caddy with one server, which speaks plain HTTP without a certificate. `client_mode`: what
    it does about those of clients, where there is a `client_ca`.

    HTTP/1.1 only: over HTTP/2 a connection without a key may fill 1 MiB before any handler is asked.
    """
    server = inner_server([listen], routes) | {
        "max_header_bytes": policy.max_header_bytes,
        "read_header_timeout": seconds(policy.header_timeout_s),
        "read_timeout": seconds(policy.body_timeout_s),
        "read_idle_timeout": -1,  # Caddy 2.11.7's own lifts the deadline when it has passed, and then waits for ever
        "idle_timeout": seconds(policy.idle_timeout_s),
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
            ca = {"provider": "inline", "trusted_ca_certs": ders(client_ca)}
            connections["client_authentication"] = {"ca": ca, "mode": client_mode}
            # one policy for all names: a client that asks by IP, and so names none, is not misdirected (421)
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


def refuse_uncertified() -> dict[str, Json]:
    """Return the route that refuses, unread, what comes by a connection without a client certificate."""
    return route(_error(403), {"vars": {"{http.request.tls.client.certificate_der_base64}": [""]}})


def inner_server(listen: list[str], routes: list[Json]) -> dict[str, Json]:
    """Return a server of errors in vLLM's shape, without deadlines."""
    return {
        "listen": listen,
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "routes": routes,
        "errors": {"routes": _error_routes()},
    }


def _behind_the_path(gateway: GatewaySpec) -> list[Json]:
    refusal = _error(401)
    refusal["headers"]["WWW-Authenticate"] = ["Bearer"]
    return [
        route(refusal, {"not": [bearer(gateway.keys)]}),
        {"handle": [{"handler": "headers", "request": {"delete": [CLIENT, CHECK]}}]},
        *(
            {"match": [bearer([one.key])], "handle": [{"handler": "headers", "request": {"set": {CLIENT: [one.name]}}}]}
            for one in gateway.clients
        ),
        route({"handler": "static_response", "status_code": 204}, {"header": {ASKS: ["1"]}}),
        *limits(gateway.policy.max_bytes),
        {"handle": [{"handler": "vars", "body": "{http.request.body}"}]},
        route(_proxies(gateway) if gateway.upstreams else _none_yet()),
    ]


def _none_yet() -> dict[str, Json]:
    refusal = _error(503, message="no reranker is running")
    refusal["headers"]["Retry-After"] = [str(RETRY_AFTER_S)]
    return refusal


def route(handler: Json, match: Json = None) -> dict[str, Json]:
    """Return a route that ends a request's way: for all requests, or those of one matcher."""
    return {**({"match": [match]} if match else {}), "handle": [handler], "terminal": True}


def _path(*paths: str) -> dict[str, Json]:
    return {"vars": {"{http.request.uri.path}": list(paths)}}


def bearer(keys: Sequence[str]) -> dict[str, Json]:
    """Return the matcher of a request that carries one of the keys, by `==`, and no second Authorization.

    A placeholder whose variable or file is missing is an empty key, which no request may match.
    """
    sent = "{http.request.header.Authorization}"  # all of them, with commas between; no key has one
    values = [f"{scheme} {key}" for key in keys for scheme in ("Bearer", "bearer")]
    return {"vars": {sent: values}, "not": [{"vars": {sent: ["Bearer ", "bearer "]}}]}


def limits(max_bytes: int) -> list[Json]:
    """Refuse a body that is too large, once it is read: a client reads no answer before it has sent all.

    One of more than DRAIN_BYTES is refused and cut off, by its declared length, else while it is read. The body is read
    here, whole, and not first by the proxy, where a client that sends too much or breaks off would count as a failure
    of the upstream.
    """
    longer = {"expression": f"size(bytes({{http.request.body}})) > {max_bytes}"}
    return [
        cut_off(max_bytes),
        {"handle": [{"handler": "request_body", "max_size": max(DRAIN_BYTES, max_bytes)}]},
        # a `vars` matcher on the body is what reads it and answers 413 at that limit
        {"match": [{"vars": {"{http.request.body}": [""]}}], "handle": []},
        route(_too_large(max_bytes), longer),
    ]


def cut_off(max_bytes: int) -> dict[str, Json]:
    """Return the route that refuses, unread, a body that is declared to be larger than what is read."""
    declared = {"expression": f"int({{http.request.header.Content-Length}}) > {max(DRAIN_BYTES, max_bytes)}"}
    refusal = {"handler": "subroute", "routes": [route(_too_large(max_bytes) | {"close": True}, declared)]}
    return {"match": [{"header": {"Content-Length": []}}], "handle": [refusal]}


def _too_large(max_bytes: int) -> dict[str, Json]:
    return _error(413, message=f"the body is larger than {max_bytes} bytes")


def _hop(gateway: GatewaySpec, upstream: Upstream) -> dict[str, Json]:
    """Return the server that passes on to one upstream, with its key, checking its name.

    That of a retired one gets no new request; by it Caddy goes on counting what is in flight.
    """
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": upstream.dial}],
        "transport": _transport(gateway, upstream),
        "headers": {"request": {"set": {"Authorization": [f"Bearer {upstream.key}"]}}},
    }
    listen = gateway.socket(upstream) + ("" if "/@" in gateway.sockets else "|0600")
    return inner_server([listen], [route(proxy, bearer([gateway.hop_key])), route(_error(404))])


def _proxies(gateway: GatewaySpec) -> dict[str, Json]:
    """Proxy to the upstreams that pass their checks, and if none is left, or what is left breaks, to any of them: a
    check that fails may be one that waits behind requests."""
    checked, any_of_them = _proxy(gateway, min(gateway.policy.retry_for_s, CHECKED_FOR_S)), _proxy(gateway)
    del any_of_them["health_checks"]["active"]
    whole = {"handler": "request_body", "set": "{http.vars.body}"}  # the first proxy has read it
    none_left = {"handler": "error", "status_code": "503"}
    return _or_if_broken([checked], [whole, _or_if_broken([any_of_them], [none_left])])


def _or_if_broken(handlers: list[Json], others: list[Json]) -> dict[str, Json]:
    """Try the others where no upstream is there or the connection breaks; any other error stays what it is."""
    broken = {"vars": {"{http.error.status_code}": ["502", "503"]}}
    same = {"handler": "error", "status_code": "{http.error.status_code}"}  # what no route takes would be no error
    errors = [{"match": [broken], "handle": others, "terminal": True}, {"handle": [same]}]
    return {"handler": "subroute", "routes": [{"handle": handlers}], "errors": {"routes": errors}}


def _proxy(gateway: GatewaySpec, retry_for_s: float | None = None) -> dict[str, Json]:
    policy = gateway.policy
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": gateway.socket(one)} for one in gateway.upstreams],
        # a connection each: one that is kept may be closed by a change of the config while it is used
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}, "compression": False},
        # whole, so that it can be sent again; limits above keep it below this size
        "request_buffers": policy.max_bytes + 1,
        "headers": {
            "request": {
                "set": {"Authorization": [f"Bearer {gateway.hop_key}"]},
                # a rented host need not learn who asks
                "delete": ["Cookie", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"],
            }
        },
        "load_balancing": {
            "selection_policy": {"policy": "least_conn"},
            "try_duration": seconds(policy.retry_for_s if retry_for_s is None else retry_for_s),
            "try_interval": seconds(policy.retry_every_s),
            # A POST is repeated only if one of these agrees and the body was buffered whole. Scoring changes nothing;
            # the second is about broken connections.
            "retry_match": [{"expression": "{http.reverse_proxy.status_code} in [502, 503]"}, _path(*ALLOW)],
        },
        "health_checks": {
            "active": {
                "method": "POST",
                "uri": "/rerank",
                "headers": {
                    "Authorization": [f"Bearer {gateway.hop_key}"],
                    "Content-Type": ["application/json"],
                    CHECK: ["1"],
                },
                "body": json.dumps(gateway.readiness.request()),
                "interval": seconds(policy.check_every_s),
                # a check queues behind requests, so it has the patience that they have
                "timeout": seconds(policy.response_timeout_s),
                "passes": policy.check_passes,
                "fails": policy.check_fails,
                "expect_status": 200,
                "expect_body": gateway.readiness.pattern(),
                "max_size": 1 << 16,
            },
            "passive": {
                "fail_duration": seconds(policy.passive_for_s),
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
        "dial_timeout": seconds(policy.dial_timeout_s),
        "response_header_timeout": seconds(policy.response_timeout_s),
        "keep_alive": {"idle_timeout": seconds(policy.keep_alive_s), "max_idle_conns_per_host": 256},
        "network_proxy": {"from": "none"},
        "compression": False,
    }
    if not gateway.upstream_ca:
        return transport
    ca = {"provider": "inline", "trusted_ca_certs": ders(gateway.upstream_ca)}
    tls = {"ca": ca, "server_name": upstream.shown_as, "handshake_timeout": seconds(policy.dial_timeout_s)}
    return transport | {"tls": tls}


def _error_routes() -> list[Json]:
    named = [route(_error(code), {"vars": {"{http.error.status_code}": [str(code)]}}) for code in KNOWN_ERRORS]
    return [*named, {"handle": [_error(500, status="{http.error.status_code}")]}]


def _error(code: int, *, message: str = "", status: str = "") -> dict[str, Json]:
    """Return a handler that answers with an error of vLLM's own shape."""
    kind, text = ERRORS[code]
    error = {"message": message or text, "type": kind, "param": None, "code": code}
    return {
        "handler": "static_response",
        "status_code": status or str(code),
        "headers": {"Content-Type": ["application/json"]},
        "body": json.dumps({"error": error}),
    }


def seconds(value: float) -> str:
    """Return a duration as Caddy writes it."""
    return f"{value * 1000:.0f}ms"
