"""Real vLLM on CPU, started by the very Launch that plan_launch made, in a container of the emulator's runtime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.errors import ServingError
from components.vast.identity import Authority, ca_file
from components.vllm.client import RerankClient
from components.vllm.launch import GUARD_KEYS_ENV, KEY_ENV, Launch
from emulator.process import Process
from emulator.runtime import Containers, Settings, free_port

HERE = Path(__file__).parent
REPO = HERE.parents[1]
BOOT_DEADLINE_S = 300.0
POLL_S = 0.5
IP = "127.0.0.1"
CONTRACT_ID = 1


def vllm_python(version: str = "0.32.0") -> Path:
    """Return the interpreter of a vLLM build for CPU; VLLM_PYTHON names another one for 0.32.0."""
    named = os.environ.get("VLLM_PYTHON") if version == "0.32.0" else None
    return Path(named) if named else REPO / ".tools" / f"vllm-{version}" / "bin" / "python"


def require_vllm(version: str = "0.32.0") -> Path:
    """Return the interpreter, or skip the test and say how to get one."""
    python = vllm_python(version)
    if not python.is_file():
        pytest.skip(f"no vLLM {version} at {python}; `scripts/setup_vllm.sh {version}` builds it in about 3 minutes")
    return python


@dataclass(frozen=True)
class Server:
    """A running server: how to ask it, and what it wrote."""

    client: RerankClient
    url: str
    key: str
    log: Path
    ca: str | None = None


@contextlib.contextmanager
def serving(
    launch: Launch, model: str, weights: Path, python: Path, folder: Path, *, authority: Authority | None = None
) -> Iterator[Server]:
    """Run a launch until a real POST /rerank answers, and kill its whole process group afterwards.

    `authority` signs the identity of a launch with TLS.
    """
    containers = Containers(Settings("vllm", folder, python, {model: str(weights)}))
    inner, outer = int(launch.ports[0].partition(":")[2]), free_port(IP)
    body = {
        "image": launch.image,
        "runtype": launch.runtype,
        "onstart": launch.onstart,
        "args": list(launch.args),
        "env": launch.container_env | (authority.issue(IP).env() if authority else {}),
    }
    process = asyncio.run(containers.start(CONTRACT_ID, body, IP, {inner: outer}))
    assert process is not None
    url, key = f"http{'s' if authority else ''}://{IP}:{outer}", launch.env.get(GUARD_KEYS_ENV) or launch.env[KEY_ENV]
    ca = ca_file(authority.certificate) if authority else None
    client = RerankClient(url, key, timeout_s=60, verify=ca or True)
    log = folder / "containers" / str(CONTRACT_ID) / "log"
    try:
        wait_for_rerank(client, model, process, log)
        yield Server(client, url, key, log, ca)
    finally:
        process.kill()
        asyncio.run(containers.stop(CONTRACT_ID))


def wait_for_rerank(client: RerankClient, model: str, process: Process, log: Path) -> None:
    """Return when a real pair is scored; fail with the end of the log when the server exits or is late."""
    deadline = time.monotonic() + BOOT_DEADLINE_S
    while True:
        try:
            client.rerank("ready?", ["yes"], model)
            return
        except ServingError as error:
            said = error
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        assert process.poll() is None, f"the server exited with {process.exit_code}:\n{tail}"
        assert time.monotonic() < deadline, f"no /rerank within {BOOT_DEADLINE_S:g} s ({said}):\n{tail}"
        time.sleep(POLL_S)


def new_key() -> str:
    """Return an API key that occurs nowhere else, so that a search for it proves something."""
    return secrets.token_hex(32)
