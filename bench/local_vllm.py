"""Real vLLM on this machine's CPU as targets of `python -m bench serving`: plain, guard, TLS, gateway.

Launched as a stack launches it, in containers of the emulator's runtime, with the packaged MiniLM's real weights.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.load import Target
from components.caddy.config import gateway_config
from components.caddy.spec import GatewaySpec, Upstream
from components.vast.identity import Authority
from components.vllm.catalog import load_catalog
from components.vllm.launch import plan_launch
from harness.caddy import running as running_caddy
from harness.caddy import running_front_proxy
from harness.stack import REPO
from harness.vllm import serving

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PYTHON = REPO / ".tools" / "vllm-0.32.0" / "bin" / "python"
MODELS = REPO / ".tools" / "models.json"
# name -> guard, TLS; the first is what the others are compared with
VARIANTS = {"plain vLLM": (False, False), "guard": (True, False), "guard and TLS": (True, True)}


@contextlib.contextmanager
def running() -> Iterator[list[Target]]:
    """Start a server for each variant, one after the other; kill them all in the end. Raises RuntimeError."""
    if not (PYTHON.exists() and MODELS.exists()):
        raise RuntimeError("vLLM is not installed here: scripts/setup.sh test; or give the --url of an endpoint")
    catalog, weights = load_catalog(), Path(json.loads(MODELS.read_text())[MODEL])
    model, image, targets = catalog.model(MODEL), catalog.default_image, list[Target]()
    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as folder, contextlib.ExitStack() as stack:
        for number, (name, (guard, tls)) in enumerate(VARIANTS.items()):
            sys.stderr.write(f"starting vLLM on this CPU, {name}\n")
            launch = plan_launch(model, image, api_key=secrets.token_hex(16), guard=guard, tls=tls)
            authority = Authority.make("bench") if tls else None
            own_folder = Path(folder) / str(number)
            one = stack.enter_context(serving(launch, MODEL, weights, PYTHON, own_folder, authority=authority))
            targets.append(Target(name, one.url, MODEL, one.key, one.ca or ""))
        last = targets[-1]
        yield [*targets, stack.enter_context(gateway([last.url], last.key, Path(last.ca).read_text()))]


@contextlib.contextmanager
def gateway(upstreams: Sequence[str], upstream_key: str, upstream_ca: str) -> Iterator[Target]:
    """Run a gateway over TLS in front of rerankers: the real Caddy, behind the front that never reloads."""
    key = secrets.token_hex(32)
    with (
        tempfile.TemporaryDirectory(prefix="gateway-") as folder,
        running_front_proxy(Path(folder)) as front,
        running_caddy(Path(folder) / "caddy") as caddy,
    ):
        rows = tuple(Upstream(one, upstream_key) for one in upstreams)
        readiness = load_catalog().model(MODEL).readiness
        spec = GatewaySpec("bench", front.listen, (key,), rows, readiness, upstream_ca, hop_key=secrets.token_hex(32))
        caddy.admin.load(gateway_config(spec))
        yield Target("gateway, guard and TLS", front.url, MODEL, key, front.ca_file)
