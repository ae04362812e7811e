"""A gateway as frozen records, and what is wrong with one. Made by the Gateway resource, the CLI and bench; read by
`config`, which makes Caddy's JSON of them. Keys and private keys are not in their repr.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from components.vast.identity import SERVER_NAME

Json = Any
KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
PLACEHOLDER = re.compile(r"\{(env\.\w+|file\.[^{}]+)\}")
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?:(\d{1,5})|unix/({env\.\w+})?/[^|{}]+(\|0[0-7]{3})?")


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
    is PEM text, or with `upstream_ca_file` a path; without both the upstreams are plain HTTP. `retired` are former
    upstreams that get no new request, and whose requests in flight are still counted (see `drain`).
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
    retired: tuple[str, ...] = ()

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


def dial(address: str) -> str:
    """Return host:port of an upstream that may be given as a URL."""
    return urlsplit(address).netloc if "://" in address else address


def ders(pem: str) -> list[str]:
    """Return the certificates of a PEM text, each as base64 of its DER; none if one of them cannot be read."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    try:
        return [base64.b64encode(ssl.PEM_cert_to_DER_cert(one)).decode() for one in found]
    except ValueError:
        return []
