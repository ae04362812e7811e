"""Real vLLM on this machine's CPU, started like on a rented machine. Used by bench and tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import ServingError
from components.vast.identity import Authority
from components.vllm.client import RerankClient
from components.vllm.launch import GUARD_KEY_ENV, KEY_ENV, Launch
from emulator.process import Process
from emulator.runtime import Containers, RuntimeSettings, free_port
from harness.certificates import ca_file

IP = "127.0.0.1"
BOOT_WITHIN_S = 600.0
POLL_S = 0.5
CONTRACT_ID = 1


@dataclass(frozen=True)
class Vllm:
    """A running server. `log`: its log file; `ca`: the file with its CA; `pid`: the process that listens."""

    client: RerankClient
    url: str
    key: str
    log: Path | None
    ca: str | None
    model: str
    pid: int = 0


@contextmanager
def serving(
    launch: Launch, model: str, weights: Path, python: Path, folder: Path, *, authority: Authority | None = None
) -> Iterator[Vllm]:
    """Start a launch in a folder, wait for a successful POST /rerank, and kill its process group after the block.

    `authority`: the CA of a launch with TLS. Raises RuntimeError with the end of the log.
    """
    containers = Containers(RuntimeSettings("vllm", folder, python, {model: str(weights)}))
    inner, outer = int(launch.ports[0].partition(":")[2]), free_port(IP)
    body = {
        "image": launch.image,
        "runtype": "args",
        "onstart": launch.onstart,
        "args": list(launch.args),
        "env": launch.container_env | (authority.issue(IP).env() if authority else {}),
    }
    process = asyncio.run(containers.start(CONTRACT_ID, body, IP, {inner: outer}))
    assert process is not None
    url, key = f"http{'s' if authority else ''}://{IP}:{outer}", launch.env.get(GUARD_KEY_ENV) or launch.env[KEY_ENV]
    ca = ca_file(authority.certificate) if authority else None
    client = RerankClient(url, key, timeout_s=60, ca=ca or "")
    log = folder / "containers" / str(CONTRACT_ID) / "log"
    try:
        _wait(client, model, process, log)
        yield Vllm(client, url, key, log, ca, model, process.pid)
    finally:
        process.kill()
        asyncio.run(containers.stop(CONTRACT_ID))


def _wait(client: RerankClient, model: str, process: Process, log: Path) -> None:
    deadline = time.monotonic() + BOOT_WITHIN_S
    while True:
        try:
            client.rerank("ready?", ["yes"], model)
            return
        except ServingError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
                raise RuntimeError(f"{model} did not serve within {BOOT_WITHIN_S:g} s ({error}):\n{tail}") from None
        time.sleep(POLL_S)
