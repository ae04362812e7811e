"""One real deployment for all tests of this folder: the engine rents from the emulator, vLLM serves on CPU."""

import subprocess

import pytest
import testinfra

from emulator.server import EmulatorServer
from tests.engine.stack import REPO, EngineStack

VLLM_PYTHON = REPO / ".tools" / "vllm-0.32.0" / "bin" / "python"
MODELS = REPO / ".tools" / "models.json"


@pytest.fixture(scope="session")
def deployment(tmp_path_factory):
    """Outputs of a stack that serves, and the stack itself."""
    if not VLLM_PYTHON.exists():
        pytest.skip("vLLM is not installed: make setup-vllm")
    folder = tmp_path_factory.mktemp("deployment")
    with EmulatorServer(
        runtime="vllm",
        time="instant",
        state_dir=folder / "emulator",
        vllm_python=VLLM_PYTHON,
        models=MODELS,
        hub="offline",
    ) as market:
        stack = EngineStack(folder / "stack", market.url, config={"probe_window_s": 5, "poll_s": "0.5"}).init()
        done = stack.up()
        assert done.rc == 0, done.text
        yield Deployment(stack, stack.outputs(), market)
        assert stack.destroy().rc == 0


class Deployment:
    def __init__(self, stack, outputs, market):
        self.stack = stack
        self.outputs = outputs
        self.market = market
        self.url = outputs["url"]
        self.key = outputs["api_key"]
        self.ca_file = stack.folder / "ca.pem"
        self.ca_file.write_text(outputs["ca_certificate"])

    def python(self, *args, python=REPO / ".venv" / "bin" / "python"):
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


@pytest.fixture(scope="session")
def host():
    """The machine that the server runs on: for the emulator, this one."""
    return testinfra.get_host("local://")
