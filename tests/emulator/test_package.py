"""What the package offers to others: the README's example, the pytest fixture, the control client."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from emulator.client import ControlError

REPO = Path(__file__).resolve().parents[2]
PROJECT = REPO / "emulator" / "pyproject.toml"
TESTS = """
import os
import urllib.request

import pytest


@pytest.fixture(scope="session")
def vastai_emulator_options():
    return {"runtime": "none", "keys": ("emulator-key",), "seed": 3}


@pytest.mark.parametrize("n", [1, 2])
def test_it_is_there_and_as_on_the_first_day(vastai_emulator, n):
    assert os.environ["VAST_URL"] == vastai_emulator.url
    assert vastai_emulator.ledger() == []
    assert vastai_emulator.requests() == {}
    call = urllib.request.Request(f"{vastai_emulator.url}/api/v1/instances/")
    call.add_header("Authorization", f"Bearer {os.environ['VAST_API_KEY']}")
    urllib.request.urlopen(call, timeout=5)
    assert vastai_emulator.requests() == {"GET /api/v1/instances/": 1}


def test_afterwards_the_environment_is_as_before():
    assert "VAST_URL" not in os.environ
"""


def test_the_example_of_the_readme_runs_as_it_is_written():
    [example] = re.findall(r"```python\n(.*?)```", (REPO / "emulator" / "README.md").read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"destroyed 0\.\d\d\n", done.stdout)


def test_the_fixture_is_an_emulator_where_the_environment_says(tmp_path):
    (tmp_path / "test_mine.py").write_text(TESTS)
    [plugin] = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["pytest11"].values()
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", "."]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VAST_", "PYTEST_"))}
    done = subprocess.run(
        command, cwd=tmp_path, env=env | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_control_client_says_why_it_was_refused(vast):
    for call in (
        lambda: vast.emulator.fault("no_such_fault"),
        lambda: vast.emulator.instance(5, "kill"),
        lambda: vast.emulator.host("all", "explode"),
    ):
        with pytest.raises(ControlError, match=r"unknown|Instance 5 not found"):
            call()


def test_the_control_client_acts_on_instances_and_hosts(vast):
    row = vast.running()
    vast.emulator.host(row["machine_id"], "die")
    assert vast.wait(row["id"], "offline")
    vast.emulator.host(row["machine_id"], "revive")
    vast.wait(row["id"])
    vast.emulator.instance(row["id"], "kill")
    assert vast.wait(row["id"], "exited")
    vast.emulator.fault("http_500", {"endpoint": "show"})
    vast.emulator.faults_off()
    assert vast.show(row["id"])
