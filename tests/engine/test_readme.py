"""The README's commands, pasted one after the other into a shell of a fresh checkout with an empty home."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from emulator.runtime import free_port
from emulator.server import EmulatorServer
from harness.pasted import Shell, commands, section
from harness.stack import REPO

pytestmark = pytest.mark.engine
README = REPO / "README.md"
KEY = "the-key-of-an-account"  # not the emulator's usual one, which env.sh takes for a local shell's


def require_installed(venv, *sets):
    """Fail where the locks are not what is installed: setup in the copy would then change it for all."""
    for one in sets:
        lock = (REPO / "requirements" / f"{one}.lock").read_text()
        stamp = (REPO / venv).resolve() / f".installed-{one}"
        assert stamp.read_text() == f"{stamp.parent}\n{lock}", f"{one} is not installed as locked: make test"
    assert (REPO / ".venv" / ".installed-checkout").read_bytes() == (REPO / "pyproject.toml").read_bytes()


@pytest.fixture
def checkout(tmp_path):
    """A copy of what git would hand out of this checkout, with what setup installs linked."""
    require_installed(".venv", "pip", "production")
    folder = tmp_path / "vast-reranker"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (source := REPO / name).is_file() and not source.is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    (folder / ".venv").symlink_to((REPO / ".venv").resolve())
    (folder / ".tools").mkdir()
    for path in (REPO / ".tools").resolve().iterdir():
        if path.is_dir():
            (folder / ".tools" / path.name).symlink_to(path)
        elif not path.name.startswith("."):
            shutil.copy(path, folder / ".tools")
    return folder


@pytest.fixture
def shell(checkout, tmp_path):
    """A terminal with nothing of this one but the system's programs; its person says yes to Pulumi."""
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "PULUMI_HOME": str(
            home / ".pulumi"
        ),  # by itself Pulumi asks not HOME where its home is, but the system's users
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PULUMI_SKIP_CONFIRMATIONS": "true",
    }
    shell = Shell(checkout, env)
    yield shell
    shell.close()


@pytest.fixture
def market(tmp_path):
    with EmulatorServer(runtime="stub", time="instant", state_dir=tmp_path / "emulator", keys=[KEY]) as server:
        yield server


def test_the_five_steps_work_as_they_stand_in_an_empty_home(checkout, shell, market, ledger):
    # the one thing that differs from the real Vast.ai is where it is
    file = checkout / "Pulumi.dev.yaml"
    stack = yaml.safe_load(file.read_text())
    stack["config"]["emulator"] = {"url": market.url}
    file.write_text(yaml.safe_dump(stack))
    pasted = commands(section(README.read_text(), "On real Vast.ai, in five steps"))
    values = {"VAST_API_KEY=...": f"VAST_API_KEY={KEY}", "PASSPHRASE=...": "PASSPHRASE='a long passphrase'"}
    for before, after in values.items():
        [at] = [number for number, command in enumerate(pasted) if before in command]
        pasted[at] = pasted[at].replace(before, after)
    scores = pasted.index('eval "$(pulumi stack output curl)"')
    assert "first choice: " in shell.ok(*pasted[:scores])
    assert len(ledger.billed()) == 1
    assert '"relevance_score"' in shell.ok(pasted[scores])
    shell.ok(*pasted[scores + 1 :])
    assert pasted[-1] == "pulumi destroy"
    assert not ledger.billed()
    assert (Path(shell.ok("echo $HOME").strip()) / ".pulumi-state" / ".pulumi").is_dir()


@pytest.mark.all
def test_the_two_commands_work_as_they_stand(shell):
    require_installed(".venv", "demo")
    require_installed(".tools/vllm-0.32.0", "pip", "vllm-0.32.0")
    demo, test = commands(section(README.read_text(), "Two commands"))
    shell.ok(f"export EMULATOR_RUNTIME=stub EMULATOR_PORT={free_port('127.0.0.1')}")
    try:
        shown = shell.ok(demo)
        assert "Deep learning" in shown.partition("=== scores")[2], shown[-2000:]
        assert "pytest" in shell.ok(f"make --dry-run {test.split()[1]}")  # this run is of what it runs
        assert "not on 1: unset EMULATOR_PORT" in shell.run("EMULATOR_PORT=1 make demo").text
    finally:
        shell.ok("unset EMULATOR_PORT")  # as in another shell, which asks the emulator that runs in this folder
        down = shell.run("make demo-down")
    assert down.rc == 0, down.text[-3000:]
