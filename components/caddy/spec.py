"""A gateway as frozen records, and their validation. Created by the Gateway resource and bench; read by `config`."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from components.readiness import Readiness

KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
NAME = re.compile(r"[A-Za-z0-9.:_-]*")
LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?:(\d{1,5})|unix/({env\.\w+})?/[^|{}]+(\|0[0-7]{3})?")


@dataclass(frozen=True)
class GatewayPolicy:
    """Load balancing, health checks, retries and limits. Times in seconds, sizes in bytes."""

    max_bytes: int = 2 << 20
    max_header_bytes: int = 32 << 10
    header_timeout_s: float = 10.0  # also of a TLS handshake
    body_timeout_s: float = 60.0  # from a request's first byte to its last
    idle_timeout_s: float = 120.0  # between two requests on a connection
    dial_timeout_s: float = 3.0
    response_timeout_s: float = 120.0
    retry_for_s: float = 15.0
    retry_every_s: float = 0.05
    check_every_s: float = 5.0
    check_fails: int = 2
    check_passes: int = 1
    passive_fails: int = 2
    passive_for_s: float = 5.0
    # uvicorn closes an idle connection after 5 s; Caddy must stop reusing it earlier, or requests fail
    keep_alive_s: float = 3.0


@dataclass(frozen=True)
class Certificate:
    """The server certificate and its private key: PEM text, or with `load_files` paths on Caddy's machine."""

    certificate: str
    private_key: str = field(repr=False)
    loader: Literal["load_pem", "load_files"] = "load_pem"


@dataclass(frozen=True)
class Acme:
    """Host names for which Caddy gets certificates by ACME's TLS-ALPN-01. Their port 443 has to reach `listen`.

    `directory`: the ACME server's URL. `directory_ca_file`: its CAs, a PEM file on Caddy's machine; "": public CAs.
    """

    names: tuple[str, ...]
    directory: str
    directory_ca_file: str = ""
    email: str = ""


@dataclass(frozen=True)
class Upstream:
    """A reranker: host:port or URL, its API key, and the name in its certificate ("" means the host)."""

    address: str
    key: str = field(repr=False)
    server_name: str = ""

    @property
    def dial(self) -> str:
        return urlsplit(self.address).netloc if "://" in self.address else self.address

    @property
    def certificate_name(self) -> str:
        return self.server_name or urlsplit(f"//{self.dial}").hostname or ""


@dataclass(frozen=True)
class NamedKey:
    """A client key, and the client's name in the guards of the servers."""

    name: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class GatewaySpec:
    """One address in front of several rerankers.

    `site`: the server's name in Caddy's config; a stack recognizes its own config by it. Without `certificate` and
    `acme` the gateway uses plain HTTP. Without `upstream_ca` (PEM) the upstreams use plain HTTP. `retired`: former
    upstreams, without a socket; Caddy still counts their requests in flight (see `drain`). `sockets`: the base address
    of Caddy's internal sockets, one per upstream: a folder (`unix//run/x`) or an abstract name (`unix/@x`). `hop_key`:
    the key of these sockets, because other users of the machine may reach them. It must not change during the gateway's
    life: during a reload the old listener sends requests to the new sockets. `clients`: named keys, valid in addition
    to `inbound_keys`; the guard gets the client's name. `client_ca` (PEM): the TLS handshake fails for a client without
    a certificate signed by one of these CAs.
    """

    site: str
    listen: str
    inbound_keys: tuple[str, ...] = field(repr=False)
    upstreams: tuple[Upstream, ...]
    readiness: Readiness
    upstream_ca: str = ""
    certificate: Certificate | None = None
    acme: Acme | None = None
    policy: GatewayPolicy = GatewayPolicy()
    retired: tuple[Upstream, ...] = ()
    sockets: str = "unix/@gateway"
    hop_key: str = field(default="", repr=False)
    clients: tuple[NamedKey, ...] = ()
    client_ca: str = ""

    @property
    def dials(self) -> list[str]:
        return [upstream.dial for upstream in self.upstreams]

    def socket(self, upstream: Upstream) -> str:
        return f"{self.sockets}/{upstream.dial}"

    @property
    def keys(self) -> list[str]:
        return [*self.inbound_keys, *(client.key for client in self.clients)]

    def secrets(self) -> list[str]:
        key = self.certificate.private_key if self.certificate else ""
        upstream_keys = [upstream.key for upstream in self.upstreams]
        return [secret for secret in (*self.keys, *upstream_keys, key, self.hop_key) if secret]


def problems(gateway: GatewaySpec) -> list[str]:
    """Return the problems of a gateway, one line per input. The texts contain no keys."""
    dials = gateway.dials
    wrong = [dial for dial in dials if not _is_address(HOST_PORT, dial)]
    keys = (*gateway.keys, *(upstream.key for upstream in gateway.upstreams))
    checks = (
        (
            _is_address(LISTEN, gateway.listen),
            f"listen: {gateway.listen!r}; accepted: :8443, 127.0.0.1:8443, unix//path",
        ),
        (gateway.inbound_keys, "inbound_keys: is empty; at least one key is needed"),
        (
            all(KEY.fullmatch(key) for key in keys),
            "inbound_keys, upstreams' keys: each needs at least 16 characters, A-Z a-z 0-9 . _ ~ + / = - (not shown)",
        ),
        (not wrong, f"upstreams: {', '.join(map(repr, wrong))}; accepted: host:port"),
        (len({*dials}) == len(dials), "upstreams: two have the same address"),
        (
            all(NAME.fullmatch(upstream.server_name) for upstream in gateway.upstreams),
            "upstreams: a server_name is not a host name",
        ),
        (not gateway.client_ca or der_certificates(gateway.client_ca), "client_ca: holds no PEM certificate"),
        (
            not gateway.client_ca or gateway.certificate or gateway.acme,
            "client_ca: needs TLS at the gateway (certificate or acme)",
        ),
        (not gateway.upstream_ca or der_certificates(gateway.upstream_ca), "upstream_ca: holds no PEM certificate"),
    )
    return [text for passed, text in checks if not passed]


def der_certificates(pem: str) -> list[str]:
    """Return the certificates of a PEM text, each as base64 of its DER form; [] if one cannot be read."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return []
    return [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode() for certificate in certificates]


def _is_address(pattern: re.Pattern[str], address: str) -> bool:
    if not pattern.fullmatch(address):
        return False
    return address.startswith("unix/") or 0 < int(address.rpartition(":")[2]) < 65536
