import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from emulator.server import EmulatorServer
from harness.stack import PASSPHRASE, REPO, EngineStack
from tests.engine.conftest import Ledger
from tests.pipelines import workflow
from tests.pipelines.fake_forge import FakeForge

REPOSITORY = "acme/reranker"
VAST_KEY = "key-of-the-pipelines-account"  # not the default of the emulator, which env.sh uses for a local shell
HEAL = {"vars.AUTO_HEAL": '["dev"]'}
CHECKOUT_PARTS = ("ops", "scripts", "emulator", ".tools", "policy")


@dataclass
class Scene:
    """The checkout of a repository, its forge, and its emulator."""

    market: EmulatorServer
    stack: EngineStack
    forge: FakeForge

    def __post_init__(self):
        self.ledger = Ledger(self.market.control)
        self.checkout = self.stack.project
        self.logs = ""
        for part in CHECKOUT_PARTS:
            if (REPO / part).exists() and not (self.checkout / part).exists():
                (self.checkout / part).symlink_to(REPO / part)
        self.contexts = {
            "secrets.VAST_API_KEY": VAST_KEY,
            "secrets.PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "vars.PULUMI_BACKEND_URL": self.stack.env["PULUMI_BACKEND_URL"],
            "github.token": self.forge.token,
            "github.repository": REPOSITORY,
            "github.event.pull_request.head.repo.full_name": REPOSITORY,
            "github.ref": "refs/heads/main",
            "github.event.sender.type": "User",
            "github.event.pull_request.user.type": "User",
            "github.event.pull_request.user.login": "someone",
            "github.event.pull_request.number": 7,
        }
        secret = ("VAST_API_KEY", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_BACKEND_URL")
        self.env = {key: value for key, value in self.stack.env.items() if key not in secret} | {
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_ACTIONS": "true",
            "VAST_URL": self.market.url,
            "PATH": f"{self.forge.bin}:{self.stack.env['PATH']}",
        }

    def job(self, name, job, stack=None, contexts=None):
        """Run a job of a workflow."""
        contexts, matrix = self.contexts | (contexts or {}), {"stack": stack} if stack else None
        result = workflow.run_job(
            f"{name}.yml", job, checkout=self.checkout, env=self.env, contexts=contexts, matrix=matrix
        )
        self.logs += result.log + result.summary
        return result

    def ops(self, command, *args):
        """Run a command of ops/ from the repository; return its JSON."""
        argv = [sys.executable, "-m", "ops", command, *args, "--cwd", str(self.checkout)]
        process = subprocess.run(
            argv, cwd=REPO, env=self.stack.env, capture_output=True, text=True, timeout=300, check=False
        )
        self.logs += process.stdout + process.stderr
        return json.loads(process.stdout)

    def outputs(self, stack="dev"):
        name, self.stack.name = self.stack.name, stack
        try:
            return self.stack.outputs()
        finally:
            self.stack.name = name

    def host(self, action, stack="dev"):
        self.ledger.control(f"hosts/{self.outputs(stack)['machine_id']}/{action}")

    def destroy_by_hand(self, stack="dev"):
        url = f"{self.market.url}/api/v0/instances/{self.outputs(stack)['instance_id']}/"
        headers = {"Authorization": f"Bearer {VAST_KEY}"}
        requests.delete(url, json={}, headers=headers, timeout=10).raise_for_status()

    def comment(self, number=7):
        """Return the comment about previews."""
        [text] = [text for text in self.forge.texts(number) if "vast-reranker: preview-" in text]
        return text


@contextlib.contextmanager
def pipelines(folder):
    """Yield a repository with a stack `dev`, a separate forge and a separate emulator."""
    market = EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator", keys=[VAST_KEY])
    with market:
        yield Scene(market, make_stack("dev", folder / "stack", market.url), FakeForge(folder / "forge"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with pipelines(tmp_path_factory.mktemp("pipelines")) as repository:
        yield repository


def make_stack(name, folder, api_url):
    return EngineStack(folder, api_url, name=name, env={"VAST_API_KEY": VAST_KEY})


def local_stack(checkout: Path, port: int):
    """Copy the config of the local stack, with another port for the emulator."""
    config = yaml.safe_load((REPO / "Pulumi.local.yaml").read_text())
    config["config"]["emulator"]["url"] = f"http://127.0.0.1:{port}"
    (checkout / "Pulumi.local.yaml").write_text(yaml.safe_dump(config))
