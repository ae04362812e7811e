"""A gateway as frozen records, and what is wrong with one. Made by the Gateway resource and bench; read by `config`."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from components.readiness import Readiness
from components.vast.identity import SERVER_NAME

Json = Any
KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
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
class GatewaySpec:
    """One address in front of some rerankers.

    `site` names the server in Caddy's config, by which a stack knows its own. Without `certificate` the gateway speaks
    plain HTTP, and without `upstream_ca` (PEM) the upstreams do. `retired` are former upstreams that get no new
    request, and whose requests in flight are still counted (see `drain`).
    """

    site: str
    listen: str
    inbound_keys: tuple[str, ...] = field(repr=False)
    upstreams: tuple[str, ...]
    upstream_key: str = field(repr=False)
    readiness: Readiness
    upstream_ca: str = ""
    server_name: str = SERVER_NAME
    certificate: Certificate | None = None
    policy: Policy = Policy()
    retired: tuple[str, ...] = ()

    def secrets(self) -> list[str]:
        key = self.certificate.private_key if self.certificate else ""
        return [one for one in (*self.inbound_keys, self.upstream_key, key) if one]


def problems(gateway: GatewaySpec) -> list[str]:
    """Return what is wrong with a gateway, an input a line; keys are never shown."""
    wrong = [one for one in gateway.upstreams if not _is_address(HOST_PORT, one)]
    checks = (
        (
            _is_address(LISTEN, gateway.listen),
            f"listen: {gateway.listen!r}; accepted: :8443, 127.0.0.1:8443, unix//path",
        ),
        (gateway.inbound_keys, "inbound_keys: is empty; at least one key is needed"),
        (
            all(KEY.fullmatch(key) for key in (*gateway.inbound_keys, gateway.upstream_key)),
            "inbound_keys, upstream_key: a key needs at least 16 characters of A-Z a-z 0-9 . _ ~ + / = - (not shown)",
        ),
        (gateway.upstreams, "upstreams: is empty; at least one host:port is needed"),
        (not wrong, f"upstreams: {', '.join(map(repr, wrong))}; accepted: host:port"),
        (not gateway.upstream_ca or ders(gateway.upstream_ca), "upstream_ca: holds no PEM certificate"),
    )
    return [text for good, text in checks if not good]


def dial(address: str) -> str:
    """Return host:port of an upstream that may be given as a URL."""
    return urlsplit(address).netloc if "://" in address else address


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
