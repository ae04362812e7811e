"""One gateway as Caddy's JSON: a pure function of a frozen record. Called by the Gateway resource, `launch`, the CLI.

What the config does, in the order a request meets it: path not on the list 404, no valid key 401, `/metrics` answered
by Caddy itself, body too large 413, then one reverse proxy over all upstreams. Every error is shaped as vLLM's.

Facts of Caddy 2.11.7 (its source, modules/caddyhttp/...), each pinned by a test in tests/gateway:
* A reverse proxy has one transport and one set of active checks, whose headers know no upstream: so all upstreams of a
  gateway share one key and one set of CAs. While a key is rotated, replicas take both.
* A key check is a header matcher, which compares with `==`, not in constant time; plain Caddy has nothing better for
  bearer keys. A trailing * would match every key that begins so: keys with odd characters are refused (KEY).
* A POST is repeated on another upstream only if a matcher of `retry_match` agrees and the body was buffered whole; a
  body that ends in an error counts against the upstream, so what is too large is refused before the proxy sees it.
* With TLS, the upstream's Host header is the upstream's own.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from components.vast.identity import SERVER_NAME
from components.vllm.guard import ALLOW

Json = Any
PROXIED = tuple(path for path in ALLOW if path != "/metrics")
KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
PLACEHOLDER = re.compile(r"\{(env\.\w+|file\.[^{}]+)\}")
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?:(\d{1,5})|unix/({env\.\w+})?/[^|{}]+(\|0[0-7]{3})?")
ERROR_TYPES = {
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "RequestTooLarge",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}


@dataclass(frozen=True)
class Policy:
    """How requests are spread, watched, repeated and bounded. Times in seconds, sizes in bytes."""

    max_bytes: int = 8 << 20
    dial_timeout_s: float = 3.0
    response_timeout_s: float = 120.0
    retry_for_s: float = 15.0
    retry_every_s: float = 0.05
    check_every_s: float = 5.0
    # a check queues behind real requests: a short patience would call a busy replica dead
    check_timeout_s: float = 15.0
    check_fails: int = 2
    check_passes: int = 1
    passive_fails: int = 2
    passive_for_s: float = 5.0
    # uvicorn closes a connection after 5 s of silence: reuse must end before, or requests race with its end
    keep_alive_s: float = 3.0
    expect_body: str = '"relevance_score"'

    @classmethod
    def parse(cls, raw: Mapping[str, Json]) -> Policy:
        """Read a policy from a resource's inputs; what is missing keeps its default."""
        kinds = {one.name: one.type for one in fields(cls)}
        cast = {"int": int, "float": float, "str": str}
        if unknown := sorted(set(raw) - set(kinds)):
            raise ValueError(f"{', '.join(unknown)} is not known; known: {', '.join(kinds)}")
        return cls(**{key: cast[str(kinds[key])](value) for key, value in raw.items() if value is not None})


@dataclass(frozen=True)
class Certificate:
    """What clients of the gateway see. `pem`: certificate and key as text; `files`: their paths where Caddy runs;
    `internal`: Caddy's own CA signs for the names in `names`."""

    kind: Literal["pem", "files", "internal"]
    certificate: str = ""
    private_key: str = field(default="", repr=False)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gateway:
    """One address in front of some rerankers.

    `site` names the server in Caddy's config, `owner` tells it from others' (see `owned`). Keys are literal, or one of
    Caddy's placeholders {env.NAME} and {file./path}. Without `certificate` the gateway speaks plain HTTP. `upstream_ca`
    is PEM text, or with `upstream_ca_file` a path; without both the upstreams are plain HTTP.
    """

    site: str
    listen: str
    inbound_keys: tuple[str, ...] = field(repr=False)
    upstreams: tuple[str, ...]
    upstream_key: str = field(repr=False)
    model: str
    upstream_ca: str = ""
    upstream_ca_file: str = ""
    server_name: str = SERVER_NAME
    certificate: Certificate | None = None
    policy: Policy = Policy()
    owner: str = "self"

    @property
    def id(self) -> str:
        """The `@id` of the server object: GET /id/<this> on the admin API shows it."""
        return f"gateway-{self.site}-{self.owner}"

    def secrets(self) -> list[str]:
        """Return the values that must not be shown."""
        key = self.certificate.private_key if self.certificate and self.certificate.kind == "pem" else ""
        return [one for one in (*self.inbound_keys, self.upstream_key, key) if one and not PLACEHOLDER.fullmatch(one)]


def problems(gateway: Gateway) -> list[str]:
    """Return what is wrong with a gateway, an input a line; keys are never shown."""
    found = []
    if not SITE.fullmatch(gateway.site):
        found.append(f"site: {gateway.site!r}; accepted: letters, digits, - and _")
    if not LISTEN.fullmatch(gateway.listen) or not _port_ok(gateway.listen):
        found.append(f"listen: {gateway.listen!r}; accepted: :8443, 127.0.0.1:8443, unix//path or such")
    for place, keys in (("inbound_keys", gateway.inbound_keys), ("upstream_key", (gateway.upstream_key,))):
        if not keys:
            found.append(f"{place}: is empty; at least one key is needed")
        elif not all(KEY.fullmatch(key) or PLACEHOLDER.fullmatch(key) for key in keys):
            found.append(f"{place}: a key needs at least 16 characters of A-Z a-z 0-9 . _ ~ + / = - (it is not shown)")
    if not gateway.upstreams:
        found.append("upstreams: is empty; at least one host:port is needed")
    for upstream in gateway.upstreams:
        if not HOST_PORT.fullmatch(upstream) or not _port_ok(upstream):
            found.append(f"upstreams: {upstream!r}; accepted: host:port")
    if len(set(gateway.upstreams)) != len(gateway.upstreams):
        found.append("upstreams: the same address twice")
    if gateway.upstream_ca and not ders(gateway.upstream_ca):
        found.append("upstream_ca: holds no PEM certificate")
    certificate = gateway.certificate
    if certificate is not None and certificate.kind == "internal" and not certificate.names:
        found.append("certificate: internal needs the names that clients will use")
    if certificate is not None and certificate.kind == "pem":
        if not ders(certificate.certificate):
            found.append("certificate: holds no PEM certificate")
        if "PRIVATE KEY-----" not in certificate.private_key:
            found.append("private_key: is no PEM private key (it is not shown)")
    policy = gateway.policy
    for name in ("max_bytes", "dial_timeout_s", "response_timeout_s", "check_every_s", "check_timeout_s"):
        if getattr(policy, name) <= 0:
            found.append(f"policy.{name}: {getattr(policy, name):g}; accepted: more than 0")
    for name in ("check_fails", "check_passes", "passive_fails"):
        if getattr(policy, name) < 1:
            found.append(f"policy.{name}: {getattr(policy, name)}; accepted: 1 or more")
    return found


def _port_ok(address: str) -> bool:
    return address.startswith("unix/") or 0 < int(address.rpartition(":")[2]) < 65536


def server(gateway: Gateway) -> dict[str, Json]:
    """Return the server object: listener, doors, proxy, errors."""
    tls: dict[str, Json] = {}
    if gateway.certificate is not None:
        tls["tls_connection_policies"] = [connection_policy(gateway.certificate, tag(gateway))]
    return {
        "@id": gateway.id,
        "listen": [gateway.listen],
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        **tls,
        "routes": [
            {
                "match": [{"vars": {"{http.request.uri.path}": list(ALLOW)}}],
                "handle": [{"handler": "subroute", "routes": _behind_the_path(gateway)}],
                "terminal": True,
            },
            {"handle": [refusal(404, "Not Found")], "terminal": True},
        ],
        "errors": {"routes": error_routes()},
    }


def tag(gateway: Gateway) -> str:
    """Return the tag by which the server finds its own certificate among all that a Caddy has."""
    return f"{gateway.id}-certificate"


def connection_policy(certificate: Certificate, name: str) -> dict[str, Json]:
    """Return how connections are secured: by the certificate that bears this tag."""
    if certificate.kind == "internal":
        return {"fallback_sni": certificate.names[0], "default_sni": certificate.names[0]}
    return {"certificate_selection": {"any_tag": [name]}}


def _behind_the_path(gateway: Gateway) -> list[Json]:
    without = refusal(401, "a valid key is needed: Authorization: Bearer <key>")
    without["headers"]["WWW-Authenticate"] = ["Bearer"]
    return [
        {"match": [{"not": [bearer(gateway.inbound_keys)]}], "handle": [without], "terminal": True},
        {
            "match": [{"vars": {"{http.request.uri.path}": ["/metrics"]}}],
            "handle": [{"handler": "metrics"}],
            "terminal": True,
        },
        *limits(gateway.policy.max_bytes),
        {"handle": [_proxy(gateway)], "terminal": True},
    ]


def bearer(keys: Sequence[str]) -> dict[str, Json]:
    """Return the matcher of a request that carries one of the keys.

    A placeholder whose variable or file is missing is an empty key, which no request may match.
    """
    values = [f"{scheme} {key}" for key in keys for scheme in ("Bearer", "bearer")]
    empty = {"header": {"Authorization": ["Bearer ", "bearer "]}}
    return {"header": {"Authorization": values}, "not": [empty]}


def limits(max_bytes: int) -> list[Json]:
    """Refuse a body that is too large: by its declared length, else by reading it.

    The body is read here, whole, and not first by the proxy, where a client that sends too much or breaks off would
    count as a failure of the upstream. A `vars` matcher on the body is what reads it and answers 413 at the limit.
    """
    too_large = refusal(413, f"the body is larger than {max_bytes} bytes") | {"close": True}
    by_length = {
        "match": [{"expression": f"int({{http.request.header.Content-Length}}) > {max_bytes}"}],
        "handle": [too_large],
        "terminal": True,
    }
    return [
        {
            "match": [{"header": {"Content-Length": []}}],
            "handle": [{"handler": "subroute", "routes": [by_length]}],
        },
        {"handle": [{"handler": "request_body", "max_size": max_bytes}]},
        {"match": [{"vars": {"{http.request.body}": [""]}}], "handle": []},
    ]


def _proxy(gateway: Gateway) -> dict[str, Json]:
    policy = gateway.policy
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": upstream} for upstream in gateway.upstreams],
        "transport": _transport(gateway),
        # whole, so that it can be sent again; limits above keep it below this size
        "request_buffers": policy.max_bytes + 1,
        "headers": {
            "request": {
                "set": {"Authorization": [f"Bearer {gateway.upstream_key}"]},
                # a rented host need not learn who asks
                "delete": ["Cookie", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"],
            }
        },
        "load_balancing": {
            "selection_policy": {"policy": "least_conn"},
            "try_duration": seconds(policy.retry_for_s),
            "try_interval": seconds(policy.retry_every_s),
            # scoring changes nothing, so it may be repeated; the second matcher is about broken connections
            "retry_match": [
                {"expression": "{http.reverse_proxy.status_code} in [502, 503]"},
                {"vars": {"{http.request.uri.path}": list(PROXIED)}},
            ],
        },
        "health_checks": {
            "active": {
                "method": "POST",
                "uri": "/rerank",
                "headers": {
                    "Authorization": [f"Bearer {gateway.upstream_key}"],
                    "Content-Type": ["application/json"],
                },
                "body": json.dumps({"model": gateway.model, "query": "ready?", "documents": ["yes"]}),
                "interval": seconds(policy.check_every_s),
                "timeout": seconds(policy.check_timeout_s),
                "passes": policy.check_passes,
                "fails": policy.check_fails,
                "expect_status": 200,
                "expect_body": policy.expect_body,
                "max_size": 1 << 16,
            },
            "passive": {
                "fail_duration": seconds(policy.passive_for_s),
                "max_fails": policy.passive_fails,
                "unhealthy_status": [502, 503],
            },
        },
    }


def _transport(gateway: Gateway) -> dict[str, Json]:
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
    if gateway.upstream_ca_file:
        ca: dict[str, Json] = {"provider": "file", "pem_files": [gateway.upstream_ca_file]}
    elif gateway.upstream_ca:
        ca = {"provider": "inline", "trusted_ca_certs": ders(gateway.upstream_ca)}
    else:
        return transport
    tls = {"ca": ca, "server_name": gateway.server_name, "handshake_timeout": seconds(policy.dial_timeout_s)}
    return transport | {"tls": tls}


def error_routes() -> list[Json]:
    """Return the answers to what goes wrong, of vLLM's own shape."""
    said = {
        413: "the body is too large",
        502: "no reranker answered",
        503: "no reranker is available",
        504: "no reranker answered in time",
    }
    routes: list[Json] = [
        {
            "match": [{"vars": {"{http.error.status_code}": [str(status)]}}],
            "handle": [refusal(status, message)],
            "terminal": True,
        }
        for status, message in said.items()
    ]
    other = {"message": "the gateway failed", "type": "InternalServerError", "param": None, "code": 500}
    return [*routes, {"handle": [_answer("{http.error.status_code}", other)]}]


def refusal(status: int, message: str) -> dict[str, Json]:
    """Return a handler that answers with an error of vLLM's own shape."""
    return _answer(str(status), {"message": message, "type": ERROR_TYPES[status], "param": None, "code": status})


def _answer(status: str, error: Mapping[str, Json]) -> dict[str, Json]:
    return {
        "handler": "static_response",
        "status_code": status,
        "headers": {"Content-Type": ["application/json"]},
        "body": json.dumps({"error": error}),
    }


def dial(address: str) -> str:
    """Return host:port of an upstream that may be given as a URL."""
    return urlsplit(address).netloc if "://" in address else address


def seconds(value: float) -> str:
    """Return a duration as Caddy writes it."""
    return f"{value * 1000:.0f}ms"


def ders(pem: str) -> list[str]:
    """Return the certificates of a PEM text, each as base64 of its DER; none if one of them cannot be read."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    try:
        return [base64.b64encode(ssl.PEM_cert_to_DER_cert(one)).decode() for one in found]
    except ValueError:
        return []
