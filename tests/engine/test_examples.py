"""Examples of Pulumi itself, run as their text says: the Automation API, and a program that refers to this stack."""

import json
import subprocess
import sys

import pytest

from harness.stack import PASSPHRASE, REPO, EngineStack
from tests.engine.conftest import Ledger

pytestmark = pytest.mark.engine


@pytest.mark.all  # slow
def test_the_automation_example_brings_a_stack_up_reads_its_outputs_and_destroys_it(market, tmp_path):
    stack = EngineStack(tmp_path / "stack", market.url, name="mine")
    command = [sys.executable, str(REPO / "examples" / "automation.py"), "mine", "disk_gb=41"]
    done = subprocess.run(
        command, cwd=stack.project, env=stack.env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{stack.config['model']} at https://" in done.stdout
    [contract] = Ledger(market.control).contracts()
    assert contract["destroyed_at"]
    assert "disk_gb" in (stack.project / "Pulumi.mine.yaml").read_text()


def test_another_program_reads_address_key_and_ca_of_this_stack_and_the_key_stays_secret(stack):
    assert stack.up().rc == 0
    outputs, name = stack.outputs(), f"organization/vast-reranker/{stack.name}"
    user = REPO / "examples" / "stack_reference"
    project = stack.folder / "user"
    project.mkdir()
    for file in user.iterdir():
        if file.is_file():
            (project / file.name).write_text(file.read_text())

    def pulumi(*words):
        command = ["pulumi", *words, "--stack", "user", "--non-interactive"]
        done = subprocess.run(
            command, cwd=project, env=stack.env, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pulumi("stack", "init")
    pulumi("config", "set", "reranker", name)
    shown = pulumi("up", "--yes", "--skip-preview") + pulumi("stack", "output", "--json")
    assert outputs["api_key"] not in shown
    assert PASSPHRASE not in shown
    found = json.loads(pulumi("stack", "output", "environment", "--json", "--show-secrets"))
    assert found == {
        "RERANKER_URL": outputs["url"],
        "RERANKER_API_KEY": outputs["api_key"],
        "RERANKER_CA": outputs["ca_certificate"],
    }


def test_the_metrics_files_are_written_from_a_real_stacks_outputs_with_the_key_that_servers_take(stack, tmp_path):
    assert stack.up().rc == 0
    folder = tmp_path / "prometheus"
    command = [sys.executable, "-m", "ops", "metrics", str(folder), "--stack", stack.name, "--cwd", str(stack.project)]
    done = subprocess.run(command, cwd=REPO, env=stack.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    [target] = json.loads((folder / "reranker-1.json").read_text())
    assert target["targets"] == [stack.outputs()["url"].removeprefix("https://")]
    assert (folder / "reranker-1_key").read_text() == stack.own_key()
    assert (folder / "ca.pem").read_text() == stack.outputs()["ca_certificate"]
