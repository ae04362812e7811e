"""`reranker/` and `emulator/` are packages: installed from a checkout or from git, each works without the stack."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
COMMANDS = {"reranker": "rerank", "emulator": "vastai-emulator"}


def run(*command, cwd, **env):
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=COMMANDS)
def package(request, tmp_path):
    """A package's name, and a copy of its folder in a repository of its own."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(REPO / request.param, checkout / request.param, ignore=ignored)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "a checkout")):
        run(*git, *words, cwd=checkout)
    return request.param, checkout


@pytest.mark.parametrize("form", ["{checkout}/{name}", "git+file://{checkout}#subdirectory={name}"])
def test_it_installs_and_its_command_runs_elsewhere(package, form, tmp_path):
    name, checkout = package
    source, target = form.format(checkout=checkout, name=name), tmp_path / "target"
    offline = (
        "--quiet",
        "--no-input",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    )
    run(sys.executable, "-m", "pip", "install", *offline, "--target", str(target), source, cwd=tmp_path)
    assert "usage:" in run(str(target / "bin" / COMMANDS[name]), "--help", cwd=tmp_path, PYTHONPATH=str(target)).lower()
    installed = {path.relative_to(target / name) for path in (target / name).rglob("*") if path.suffix != ".pyc"}
    data = {"py.typed", "applications.toml"} if name == "reranker" else {"root.cer", "vllm_flags.txt"}
    wanted = {path.name for path in (REPO / name).glob("*.py")} | data
    assert {str(path) for path in installed} - {"__pycache__"} == wanted
