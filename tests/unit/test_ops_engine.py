"""The engine as ops/ runs it, with a program on PATH in its place: secrets, signals, errors, config."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from harness.stack import REPO
from harness.wait import until
from ops import config, exits, review
from ops.engine import Pulumi, prepare_environment

EMPTY_STATE = '[ "$2 $3" = "stack export" ] && echo "{}" && exit'


@pytest.fixture
def project(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: yaml\nconfig:\n  extra_args: {}\n  image: {}\n")
    return tmp_path


@pytest.fixture
def fake(project, monkeypatch):
    """Put a `pulumi` on PATH that runs `script`; return how."""

    def use(script):
        program = project / "bin" / "pulumi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/bash\n[ "$1" = version ] && echo v3.259.0 && exit\n{EMPTY_STATE}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return use


@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n"])
def test_an_empty_secret_is_none_and_no_secret_passes_to_the_output(project, fake, monkeypatch, capfd, around):
    """Also where its variable ends in a newline, as one from a file does: what is used, and may be said, is without."""
    fake(
        'VAST_API_KEY=$(echo $VAST_API_KEY | tr -d " \\r\\n")\n'
        'echo "key $VAST_API_KEY"; echo "error: pass ${PULUMI_CONFIG_PASSPHRASE-unset} $VAST_API_KEY" >&2; exit 1'
    )
    monkeypatch.setenv("VAST_API_KEY", around.format("abcdef-123456"))
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "")
    prepare_environment()
    with pytest.raises(exits.OpsError, match="pass unset") as failed:
        Pulumi(project, "dev").preview()
    shown = capfd.readouterr()
    assert "key [redacted]" in shown.err
    assert "abcdef-123456" not in shown.out + shown.err + str(failed.value)


def test_a_secret_of_the_config_goes_through_stdin_and_not_by_the_command_line(project, fake):
    fake(f'echo "$@" >{project}/words; cat >{project}/given')
    Pulumi(project, "dev").set_secret("api_key", "the-key-itself")
    assert (project / "given").read_text() == "the-key-itself"
    assert "the-key-itself" not in (project / "words").read_text()


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("the stack is currently locked by 1 lock(s)", exits.BUSY),
        ("no stack named 'dev' found", exits.USAGE),
        ("incorrect passphrase", exits.SECRET),
    ],
)
def test_what_the_automation_api_tells_apart_has_its_own_exit_code(project, fake, says, code):
    fake(f'echo "error: {says}" >&2; exit 1')
    with pytest.raises(exits.OpsError) as failed:
        Pulumi(project, "dev").preview()
    assert failed.value.code == code


def test_a_signal_reaches_the_engine_once_and_only_from_here(project, fake, tmp_path):
    """Signals for the process group do not reach it: it is in a session of its own."""
    heard = tmp_path / "heard"
    wait = f"while [ ! -s {heard} ]; do sleep 0.05; done; sleep 0.5"
    fake(f"trap 'echo heard >>{heard}' INT\ntouch {heard}\n{wait}; exit 1")
    program = "from pathlib import Path; from ops.engine import Pulumi; Pulumi(Path('.'), 'dev').preview()"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=project, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(heard.exists)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.1)
    _, err = process.communicate(timeout=30)
    assert heard.read_text() == "heard\n"
    assert "pulumi stops cleanly" in err
    assert "already stopping" in err


@pytest.mark.parametrize("name", ["prod", "dev", "review", "review-", "review-A", "xreview-1", "review-1;ls"])
def test_no_stack_but_a_review_stack_is_accepted(name):
    with pytest.raises(exits.OpsError) as refused:
        review.refuse_others(name)
    assert refused.value.code == exits.USAGE


@pytest.mark.engine
def test_a_copied_config_keeps_every_value_as_it_is_and_secrets_encrypted(project, monkeypatch):
    monkeypatch.setenv("PATH", f"{REPO / '.tools' / 'bin'}:/usr/bin:/bin")
    for name, value in {"HOME": "home", "PULUMI_HOME": "pulumi-home"}.items():
        monkeypatch.setenv(name, str(project / value))
    (project / "state").mkdir()
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{project / 'state'}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "engine-test")
    dev, other = Pulumi(project, "dev"), Pulumi(project, "review-1")
    for one in (dev, other):
        one.call(one.workspace.create_stack, one.name)
    own = "config:\n  p:tls: off\n  p:n: 40\n  p:map: {a: 1, b: [true, x]}\n  p:extra_args: [a, b]\n  p:image: 'NO'\n"
    with (project / "Pulumi.dev.yaml").open("a") as file:
        file.write(own)
    dev.set_secret("api_key", "a-key-of-dev")
    path = project / "Pulumi.dev.yaml"  # as the files that ship have it: the project's name before a key left out
    path.write_text(path.read_text().replace("  p:tls:", "  tls:").replace("  p:map:", "  map:"))
    config.copy(dev, other)
    config.set_values(other, {"n": "50", "map.a": "2"})
    text = (project / "Pulumi.review-1.yaml").read_text()
    made = yaml.safe_load(text)["config"]
    assert "a-key-of-dev" not in text
    assert list(made.pop("p:api_key")) == ["secure"]
    assert (other.config("api_key"), other.config("tls"), other.config("n")) == ("a-key-of-dev", "off", "50")
    assert made == {
        "p:tls": "off", "p:n": "50", "p:map": {"a": 2, "b": [True, "x"]}, "p:extra_args": ["a", "b"], "p:image": "NO",
    }  # fmt: skip
