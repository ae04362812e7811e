"""The project's own lint, each command as a test: `make lint` runs this file, `make test` runs it beside the others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SUITES

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("scripts/lint_pipelines.sh",)],
    ids=" ".join,
)
def test_this_finds_nothing(command):
    program = shutil.which(command[0], path=f"{BIN}:{REPO}") or str(REPO / command[0])
    done = subprocess.run([program, *command[1:]], cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_test_is_in_exactly_one_of_the_two_suites(request):
    suites = request.config.stash[SUITES]
    assert suites
    assert {test: found for test, found in suites.items() if len(found - {"alone"}) != 1} == {}
    assert {test: found for test, found in suites.items() if "alone" in found and "all" not in found} == {}
