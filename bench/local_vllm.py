"""Real vLLM on this machine's CPU as targets of `python -m bench serving`: plain, guard, TLS, gateway.

Launched as a stack launches it, in containers of the emulator's runtime, with the packaged MiniLM's real weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.load import Target
from components.caddy.config import gateway_config
from components.caddy.spec import GatewaySpec, Upstream
from components.errors import ServingError
from components.vast.identity import Authority
from components.vllm.catalog import load_catalog
from components.vllm.client import RerankClient
from components.vllm.launch import GUARD_KEY_ENV, KEY_ENV, plan_launch
from emulator.process import Process
from emulator.runtime import Containers, Settings, free_port
from harness.caddy import running as running_caddy
from harness.caddy import running_front_proxy
from harness.stack import REPO

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PYTHON = REPO / ".tools" / "vllm-0.32.0" / "bin" / "python"
MODELS = REPO / ".tools" / "models.json"
IP = "127.0.0.1"
BOOT_S = 600.0
# name -> guard, TLS; the first is what the others are compared with
VARIANTS = {"plain vLLM": (False, False), "guard": (True, False), "guard and TLS": (True, True)}


@contextlib.contextmanager
def running() -> Iterator[list[Target]]:
    """Start a server for each variant, one after the other; kill them all in the end. Raises RuntimeError."""
    if not (PYTHON.exists() and MODELS.exists()):
        raise RuntimeError("vLLM is not installed here: scripts/setup.sh test; or give the --url of an endpoint")
    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as folder, contextlib.ExitStack() as stack:
        containers = Containers(Settings("vllm", Path(folder), PYTHON, json.loads(MODELS.read_text())))
        targets = []
        for number, (name, (guard, tls)) in enumerate(VARIANTS.items(), 1):
            sys.stderr.write(f"starting vLLM on this CPU, {name}\n")
            targets.append(stack.enter_context(_server(containers, number, name, guard=guard, tls=tls)))
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


@contextlib.contextmanager
def _server(containers: Containers, number: int, name: str, *, guard: bool, tls: bool) -> Iterator[Target]:
    catalog, key, port = load_catalog(), secrets.token_hex(16), free_port(IP)
    launch = plan_launch(catalog.model(MODEL), catalog.default_image, api_key=key, guard=guard, tls=tls)
    authority = Authority.make("bench") if tls else None
    env = launch.container_env | (authority.issue(IP).env() if authority else {})
    assert (GUARD_KEY_ENV if guard else KEY_ENV) in env
    body = {"image": launch.image, "runtype": launch.runtype, "onstart": launch.onstart, "args": list(launch.args)}
    process = asyncio.run(containers.start(number, body | {"env": env}, IP, {8000: port}))
    assert process is not None
    ca = containers.settings.folder / "ca.pem"
    ca.write_text(authority.certificate if authority else "")
    target = Target(name, f"http{'s' if tls else ''}://{IP}:{port}", MODEL, key, str(ca) if tls else "")
    try:
        _wait(target, process, containers, number)
        yield target
    finally:
        process.kill()
        asyncio.run(containers.stop(number))


def _wait(target: Target, process: Process, containers: Containers, number: int) -> None:
    client = RerankClient(target.url, target.key, ca=target.ca, timeout_s=60)
    deadline = time.monotonic() + BOOT_S
    while True:
        try:
            client.rerank("ready?", ["yes"], target.model)
            return
        except ServingError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{target.name} does not serve ({error}):\n{containers.log(number, 20)}") from None
        time.sleep(0.5)
