"""Real vLLM on CPU, started by the very Launch that plan_launch made, in a process that stands for a container."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.errors import ServingError
from components.vllm.client import RerankClient
from components.vllm.launch import KEY_ENV, Launch

HERE = Path(__file__).parent
REPO = HERE.parents[1]
BOOT_DEADLINE_S = 300.0
POLL_S = 0.5
# A shell that a server's image would have; what the test run itself has set must not reach the server.
KEPT_ENV = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")


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


@contextlib.contextmanager
def serving(launch: Launch, model: str, folder: Path, python: Path, container: Path) -> Iterator[Server]:
    """Run a launch until a real POST /rerank answers, and stop its whole process group afterwards."""
    port = free_port()
    for each in ("bin", "tmp"):
        (container / each).mkdir(parents=True)
    shim = container / "bin" / "vllm"
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} {shlex.quote(str(HERE / "vllm_shim.py"))} "$@"\n')
    shim.chmod(0o755)
    env = {name: os.environ[name] for name in KEPT_ENV if name in os.environ}
    env |= launch.env
    env |= {
        "PATH": f"{container / 'bin'}:{env['PATH']}",
        "TMPDIR": str(container / "tmp"),
        "SHIM_MODELS": json.dumps({model: str(folder)}),
        "SHIM_PORT": str(port),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    # Without onstart the image's entrypoint runs, which is `vllm serve`.
    command = [launch.onstart, *launch.args] if launch.onstart else ["vllm", "serve", *launch.args]
    log = container / "log"
    url, key = f"http://127.0.0.1:{port}", launch.env[KEY_ENV]
    client = RerankClient(url, key, timeout_s=60)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=container, start_new_session=True
        )
    try:
        wait_for_rerank(client, model, process, log)
        yield Server(client, url, key, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_rerank(client: RerankClient, model: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a real pair is scored; fail with the end of the log when the server exits or is late."""
    deadline = time.monotonic() + BOOT_DEADLINE_S
    while True:
        try:
            client.rerank("ready?", ["yes"], model)
            return
        except ServingError as error:
            said = error
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        assert process.poll() is None, f"the server exited with {process.returncode}:\n{tail}"
        assert time.monotonic() < deadline, f"no /rerank within {BOOT_DEADLINE_S:g} s ({said}):\n{tail}"
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_key() -> str:
    """Return an API key that occurs nowhere else, so that a search for it proves something."""
    return secrets.token_hex(32)
