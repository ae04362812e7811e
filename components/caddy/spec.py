"""A gateway as frozen records, and what is wrong with one. Made by the Gateway resource and bench; read by `config`."""

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
    """How requests are spread, watched, repeated and bounded. Times in seconds, sizes in bytes."""

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
    # uvicorn closes a connection after 5 s of silence: reuse must end before, or requests race with its end
    keep_alive_s: float = 3.0


@dataclass(frozen=True)
class Certificate:
    """Certificate and private key that clients see: as PEM text, or with `load_files` their paths where Caddy runs."""

    certificate: str
    private_key: str = field(repr=False)
    loader: Literal["load_pem", "load_files"] = "load_pem"


@dataclass(frozen=True)
class Acme:
    """Host names that Caddy itself gets certificates for, by ACME's TLS-ALPN-01: their port 443 leads to `listen`.

    `directory`: the ACME server's, trusted by the public CAs or by those of a PEM file where Caddy runs.
    """

    names: tuple[str, ...]
    directory: str
    directory_ca_file: str = ""
    email: str = ""


@dataclass(frozen=True)
class Upstream:
    """A reranker: host:port (or its URL), the key that it takes, and the name in its certificate; "" means its host."""

    address: str
    key: str = field(repr=False)
    server_name: str = ""

    @property
    def dial(self) -> str:
        return urlsplit(self.address).netloc if "://" in self.address else self.address

    @property
    def shown_as(self) -> str:
        return self.server_name or urlsplit(f"//{self.dial}").hostname or ""


@dataclass(frozen=True)
class NamedKey:
    """A key by which a client comes in, and the name under which the servers' guards know it."""

    name: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class GatewaySpec:
    """One address in front of some rerankers.

    `site` names the server in Caddy's config, by which a stack knows its own. Without `certificate` and `acme`
    the gateway speaks plain HTTP, and without `upstream_ca` (PEM) the upstreams do. `retired` are former upstreams that
    get no new request, and whose requests in flight are still counted (see `drain`). `sockets`: below which socket
    address Caddy listens for itself, one for each upstream: a folder, `unix//run/x`, or a name, `unix/@x`.
    `hop_key`: what these are shown, since their sockets may be open to others there; the same for as long as the
    gateway lives, for while a config is loaded a request comes from the old one's listener to the new one's socket.
    `clients`: named keys, valid beside `inbound_keys`; a guard is told whose request it is. `client_ca` (PEM): a
    client without a certificate by one of these is refused in its handshake.
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
        return [one.dial for one in self.upstreams]

    def socket(self, upstream: Upstream) -> str:
        return f"{self.sockets}/{upstream.dial}"

    @property
    def keys(self) -> list[str]:
        return [*self.inbound_keys, *(one.key for one in self.clients)]

    def secrets(self) -> list[str]:
        key = self.certificate.private_key if self.certificate else ""
        return [
            one
            for one in (*self.keys, *(each.key for each in (*self.upstreams, *self.retired)), key, self.hop_key)
            if one
        ]


def problems(gateway: GatewaySpec) -> list[str]:
    """Return what is wrong with a gateway, an input a line; keys are never shown."""
    dials = gateway.dials
    wrong = [one for one in dials if not _is_address(HOST_PORT, one)]
    keys = (*gateway.keys, *(one.key for one in gateway.upstreams))
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
        (len({*dials}) == len(dials), "upstreams: an address is there twice"),
        (all(NAME.fullmatch(one.server_name) for one in gateway.upstreams), "upstreams: a server_name is no host name"),
        (not gateway.client_ca or ders(gateway.client_ca), "client_ca: holds no PEM certificate"),
        (
            not gateway.client_ca or gateway.certificate or gateway.acme,
            "client_ca: the gateway ends no TLS, so it sees no certificate",
        ),
        (not gateway.upstream_ca or ders(gateway.upstream_ca), "upstream_ca: holds no PEM certificate"),
    )
    return [text for good, text in checks if not good]


def ders(pem: str) -> list[str]:
    """Return the certificates of a PEM text, each as base64 of its DER; none if one of them cannot be read."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return []
    return [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in certificates]


def _is_address(pattern: re.Pattern[str], address: str) -> bool:
    if not pattern.fullmatch(address):
        return False
    return address.startswith("unix/") or 0 < int(address.rpartition(":")[2]) < 65536
