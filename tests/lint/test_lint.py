"""The project's own lint, each command as a test: `make lint` runs this file, `make test` runs it beside the others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def collected(expression):
    """Return the tests that a marker expression selects, by id."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "-m", expression, "tests"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 5), done.stdout + done.stderr  # 5: none
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_test_is_in_exactly_one_of_the_two_suites():
    quick, rest = collected("quick"), collected("all")
    assert quick
    assert rest
    assert collected("not quick and not all") == set()
    assert collected("quick and all") == set()
