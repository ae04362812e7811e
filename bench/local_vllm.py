"""Real vLLM on this machine's CPU as targets of `python -m bench`: plain, guard, TLS, API servers, gateway.

vLLM starts as in a stack, in containers of the emulator's runtime, with the real weights of the packaged MiniLM.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import BenchTarget
from components.caddy.config import gateway_config
from components.caddy.spec import GatewaySpec, Upstream
from components.vast.identity import Authority
from components.vllm.catalog import load_catalog
from components.vllm.launch import plan_launch
from harness.caddy import FrontProxy, running_front_proxy
from harness.caddy import running as running_caddy
from harness.stack import REPO
from harness.vllm import serving

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PYTHON = REPO / ".tools" / "vllm-0.32.0" / "bin" / "python"
MODELS = REPO / ".tools" / "models.json"
# As a GPU, the model leaves the other cores to all else. With a thread for each core, every wait of one thread for the
# CPU holds up the others: stalls of 0.3 to 1 s at 20 requests/s on 2 cores, and none with one thread.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Variant:
    """A way to launch vLLM."""

    name: str
    guard: bool
    tls: bool
    extra_args: tuple[str, ...] = ()


# the first is the baseline
VARIANTS = (Variant("plain vLLM", False, False), Variant("guard", True, False), Variant("guard and TLS", True, True))


def api_server_variant(count: int) -> Variant:
    """Return the default launch with `count` API servers of vLLM, without compilation at boot."""
    flags = ("--enforce-eager", "--api-server-count", str(count))
    return Variant(f"guard and TLS, API servers: {count}", True, True, flags)


@contextlib.contextmanager
def running(variants: Sequence[Variant]) -> Iterator[list[BenchTarget]]:
    """Start a server for each variant, one after the other; kill all of them at the end. Raises RuntimeError."""
    if not (PYTHON.exists() and MODELS.exists()):
        raise RuntimeError("vLLM is not installed here: run scripts/setup.sh test, or use --url to measure an endpoint")
    catalog, weights = load_catalog(), Path(json.loads(MODELS.read_text())[MODEL])
    model, image, targets = catalog.model(MODEL), catalog.default_image, list[BenchTarget]()
    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as folder, contextlib.ExitStack() as stack:
        for number, variant in enumerate(variants):
            sys.stderr.write(f"starting vLLM on this CPU, {variant.name}\n")
            key, guard, tls = secrets.token_hex(16), variant.guard, variant.tls
            launch = plan_launch(model, image, api_key=key, guard=guard, tls=tls, extra_args=variant.extra_args)
            launch = replace(launch, env=launch.env | ONE_THREAD)
            authority = Authority.make("bench") if tls else None
            server_folder = Path(folder) / str(number)
            vllm = stack.enter_context(serving(launch, MODEL, weights, PYTHON, server_folder, authority=authority))
            targets.append(BenchTarget(variant.name, vllm.url, MODEL, vllm.key, vllm.ca or "", pid=vllm.pid))
        yield targets


@contextlib.contextmanager
def running_with_gateway() -> Iterator[list[BenchTarget]]:
    """Start a server for each of VARIANTS, and a gateway in front of the last."""
    with running(VARIANTS) as targets, gateway("gateway, guard and TLS", targets[-1]) as front:
        yield [*targets, front]


@contextlib.contextmanager
def gateway(
    name: str,
    upstream: BenchTarget,
    front_proxy: Callable[[Path], AbstractContextManager[FrontProxy]] = running_front_proxy,
) -> Iterator[BenchTarget]:
    """Run a gateway over TLS in front of a reranker: the real Caddy behind the front proxy, which never reloads."""
    key = secrets.token_hex(32)
    with (
        tempfile.TemporaryDirectory(prefix="gateway-") as folder,
        front_proxy(Path(folder)) as front,
        running_caddy(Path(folder) / "caddy") as caddy,
    ):
        readiness, ca = load_catalog().model(MODEL).readiness, Path(upstream.ca).read_text()
        upstreams = (Upstream(upstream.url, upstream.key),)
        spec = GatewaySpec("bench", front.listen, (key,), upstreams, readiness, ca, hop_key=secrets.token_hex(32))
        caddy.admin.load(gateway_config(spec))
        pid = front.caddy.process.pid if front.caddy.process else 0
        yield BenchTarget(name, front.url, upstream.model, key, front.ca_file, pid=pid)
