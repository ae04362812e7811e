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
VAST_KEY = "key-of-the-pipelines-account"  # not the emulator's usual one, which env.sh takes for a local shell's
HEAL = {"vars.AUTO_HEAL": '["dev"]'}
BROUGHT = ("ops", "scripts", "emulator", ".tools", "policy")


@dataclass
class Scene:
    """A repository's checkout, its forge, and the market that it rents from."""

    market: EmulatorServer
    stack: EngineStack
    forge: FakeForge

    def __post_init__(self):
        self.ledger = Ledger(self.market.control)
        self.checkout = self.stack.project
        self.logs = ""
        for part in BROUGHT:
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

    def job(self, name, job, stack=None, **contexts):
        """Run a job of a workflow; contexts with dots in their names as a mapping `more`."""
        more = contexts.pop("more", {})
        done = workflow.run_job(
            f"{name}.yml",
            job,
            checkout=self.checkout,
            env=self.env,
            contexts={**self.contexts, **more},
            matrix={"stack": stack} if stack else None,
        )
        self.logs += done.log + done.summary
        return done

    def ops(self, command, *args):
        """Run a command as a person does, from the repository; return its JSON."""
        words = [sys.executable, "-m", "ops", command, *args, "--cwd", str(self.checkout)]
        done = subprocess.run(
            words, cwd=REPO, env=self.stack.env, capture_output=True, text=True, timeout=300, check=False
        )
        self.logs += done.stdout + done.stderr
        return json.loads(done.stdout)

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
        """Return the one comment about previews."""
        texts = [text for text in self.forge.texts(number) if "vast-reranker: preview-" in text]
        assert len(texts) == 1, texts
        return texts[0]


@contextlib.contextmanager
def pipelines(folder):
    """Give a repository with a stack `dev`, a forge and a market of its own."""
    market = EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator", keys=[VAST_KEY])
    with market:
        yield Scene(market, stack_named("dev", folder / "stack", market.url), FakeForge(folder / "forge"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with pipelines(tmp_path_factory.mktemp("pipelines")) as one:
        yield one


def stack_named(name, folder, api_url):
    return EngineStack(folder, api_url, name=name, env={"VAST_API_KEY": VAST_KEY})


def local_stack(checkout: Path, port: int):
    """Bring the local stack's own config along, with the emulator at another port."""
    config = yaml.safe_load((REPO / "Pulumi.local.yaml").read_text())
    config["config"]["emulator"]["url"] = f"http://127.0.0.1:{port}"
    (checkout / "Pulumi.local.yaml").write_text(yaml.safe_dump(config))
