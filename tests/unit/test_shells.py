"""Shells, Pythons and checkouts that the project does not run in: each is told so in one line, with the remedy."""

import os
import shutil
import subprocess
import sys

import pytest

from components.container_files import digests
from harness.stack import REPO
from ops.exits import from_messages


def run(*words, cwd=REPO, **env):
    env = {"PATH": os.environ["PATH"], "HOME": "/dev/null"} | env
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def shell(name):
    """Return a shell's name, for tests that are left out where this machine has none."""
    return pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name} on this machine"))


@pytest.mark.parametrize("name", [shell("dash"), shell("fish")])
def test_a_shell_that_is_neither_bash_nor_zsh_is_told_so_in_one_line(name):
    done = run(name, "-c", ". scripts/env.sh real; printenv PULUMI_SKIP_UPDATE_CHECK || echo not set")
    assert done.stdout == "not set\n"
    assert done.stderr.startswith("env: scripts/env.sh is for bash and zsh")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [shell("bash"), shell("zsh")])
def test_bash_and_zsh_are_prepared_from_any_folder_and_keep_nothing_else(name, tmp_path):
    script = f'set -eu; . "{REPO}/scripts/env.sh" real; echo $?; command -v python; set | grep ^_vr_ || :'
    done = run(name, "-c", script, cwd=tmp_path)
    assert done.stdout == f"0\n{REPO}/.venv/bin/python\n", done.stderr


def test_the_environment_run_as_a_command_says_that_it_is_to_be_sourced():
    done = run("bash", "scripts/env.sh", "real")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "source it, `. scripts/env.sh`" in done.stderr
    assert run("bash", "-c", ". scripts/env.sh real").returncode == 0


def test_a_machine_without_bash_is_told_that_by_make(tmp_path):
    done = run(shutil.which("make"), "setup", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "bash: No such file" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_packages_of_another_project_on_the_path_are_named_with_the_remedy(tmp_path):
    (tmp_path / "typing_extensions.py").write_text("raise ImportError('of another project')")
    done = run(sys.executable, "-m", "ops", "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: of another project; ")
    assert "unset PYTHONPATH" in done.stderr
    assert "PYTHONPATH is set" in run("bash", "-c", ". scripts/env.sh real", PYTHONPATH=str(tmp_path)).stderr


def test_pythons_safe_path_keeps_no_command_from_its_modules_and_scripts_are_named_that_it_does(tmp_path):
    done = run(sys.executable, "-P", "-m", "ops", "--version", PYTHONSAFEPATH="1")
    assert (done.returncode, done.stdout.split()[0]) == (0, "vast-reranker"), done.stderr
    assert "PYTHONSAFEPATH is set" in run("bash", "-c", ". scripts/env.sh real", PYTHONSAFEPATH="1").stderr
    assert "PYTHONSAFEPATH" not in run("bash", "-c", ". scripts/env.sh real").stderr


def test_what_pulumi_says_of_pip_has_a_remedy():
    said = "error: failed to discover package requirements: calling `python -m pip list`: exit status 1"
    assert "unset PYTHONPATH" in from_messages([said]).remedy


def test_a_checkout_with_the_line_ends_of_windows_deploys_the_same_bytes(tmp_path):
    files = "{name: one for name in ('guard', 'Qwen/Qwen3-Reranker-0.6B') for one in digests([name]).items()}"
    for part in ("components", "reranker"):
        shutil.copytree(REPO / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*tmp_path.rglob("*.py"), *tmp_path.rglob("*.yaml")]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    program = f"import components; from components.container_files import digests; print(components.__file__, {files})"
    done = run(sys.executable, "-c", program, cwd=tmp_path)
    here = {name: one for name in ("guard", "Qwen/Qwen3-Reranker-0.6B") for one in digests([name]).items()}
    assert done.stdout == f"{tmp_path}/components/__init__.py {here}\n", done.stderr


def test_git_on_windows_checks_out_the_same_bytes(tmp_path):
    done = run(
        "git", "-c", "core.autocrlf=true", "clone", "--quiet", "--depth", "1", f"file://{REPO}", str(tmp_path / "here")
    )
    assert done.returncode == 0, done.stderr
    files = [one for one in (tmp_path / "here").rglob("*") if one.suffix in (".py", ".sh", ".yaml", ".lock", ".toml")]
    assert len(files) > 100
    assert [one for one in files if b"\r\n" in one.read_bytes()] == []
