"""The component in programs of other languages and names, by the real engine: deploy, look, heal, destroy."""

import json
import subprocess

import pytest
import yaml

from harness.stack import REPO, EngineStack
from reranker import Endpoint, Reranker

pytestmark = pytest.mark.engine
SECRET = "a-key-of-this-test-0123456789"


class Program:
    """A copy of an example, with the config of its own namespace."""

    def __init__(self, example, market, folder):
        self.env = EngineStack(folder / "unused", market.url).env
        self.folder = folder / example
        self.folder.mkdir()
        for file in (REPO / "examples" / example).iterdir():
            if file.is_file():
                (self.folder / file.name).write_text(file.read_text().replace("../../package", str(REPO / "package")))
        self.ok("stack", "init", "dev")
        for key, value in {
            "emulator.url": market.url,
            "timeouts.poll_s": "0.1",
            "timeouts.probe_window_s": "1",
        }.items():
            self.ok("config", "set", "--path", key, value)
        self.ok("config", "set", "--secret", "api_key", SECRET)

    def run(self, *words):
        command = ["pulumi", *words, "--non-interactive", "--color", "never"]
        return subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=200, check=False
        )

    def ok(self, *words):
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def outputs(self):
        return json.loads(self.ok("stack", "output", "--json", "--show-secrets"))

    def set(self, **properties):
        path = self.folder / "Pulumi.yaml"
        program = yaml.safe_load(path.read_text())
        program["resources"]["search"]["properties"] |= properties
        path.write_text(yaml.safe_dump(program))


@pytest.mark.all  # YAML's language host is built for `make test-all`
@pytest.mark.parametrize(("example", "replicas"), [("package_yaml", 2), ("package_python", 1)])
def test_a_program_deploys_a_fleet_looks_at_it_heals_it_and_destroys_it(market, ledger, tmp_path, example, replicas):
    program = Program(example, market, tmp_path)
    assert f"{8 + replicas} to create" in program.ok("preview")
    program.ok("up", "--yes", "--skip-preview")
    assert SECRET not in program.ok("stack", "export")
    first = ledger.billed()
    assert len(first) == replicas
    program.ok("preview", "--refresh", "--expect-no-changes")
    gone = min(first)
    ledger.control(f"instances/{gone}/kill")
    assert program.run("preview", "--refresh", "--expect-no-changes").returncode != 0
    program.ok("up", "--refresh", "--yes", "--skip-preview")
    assert len(ledger.billed()) == replicas
    assert first - ledger.billed() == {gone}
    outputs = program.outputs()
    assert outputs["api_key"] == SECRET
    client = Reranker(Endpoint(outputs["url"], SECRET, outputs["ca_certificate"]))
    assert client.rerank("a query", ["a query", "else"])[0].index == 0
    program.ok("destroy", "--yes", "--skip-preview")
    assert ledger.billed() == set()


@pytest.mark.all  # as above
def test_what_the_config_refuses_is_said_by_a_preview_of_the_program(market, tmp_path):
    program = Program("package_yaml", market, tmp_path)
    program.set(replicas=0)
    refused = program.run("preview")
    assert refused.returncode != 0
    assert (
        "replicas: the minimum, or that of a window of schedule, is 0, and then nothing answers"
        in refused.stdout + refused.stderr
    )


def test_a_program_in_python_takes_the_component_without_a_generated_sdk(market, ledger, tmp_path):
    program = Program("package_python", market, tmp_path)
    program.ok("up", "--yes", "--skip-preview")
    assert program.outputs()["url"].startswith("https://127.")
    [contract] = ledger.contracts()
    assert contract["label"].startswith("my-python-search/dev/search@")
    program.ok("destroy", "--yes", "--skip-preview")
    assert ledger.billed() == set()
