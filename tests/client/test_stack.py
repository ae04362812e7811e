"""A stack's outputs, read with the real `pulumi` from a state of its own (imported, so nothing is deployed)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reranker import (
    NotDeployed,
    PulumiMissing,
    Replica,
    Reranker,
    StackError,
    UnknownStack,
    WrongPassphrase,
    read_stack,
)
from reranker.stack import from_outputs
from tests.client.guarded import KEY, MODEL

REPO = Path(__file__).parents[2]
PULUMI = REPO / ".tools" / "bin" / "pulumi"
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a backend of its own, and an environment that leads to it."""
    if not PULUMI.exists():
        pytest.skip("no Pulumi engine: make setup")
    (tmp_path / "state").mkdir()
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Pulumi.yaml").write_text("name: vast-reranker\nruntime: python\n")
    for name, value in {
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_CONFIG_PASSPHRASE": "right",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PATH": f"{PULUMI.parent}{os.pathsep}{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    pulumi(folder, "stack", "init", "dev", "--non-interactive")
    return folder


def pulumi(folder, *args, given=None):
    done = subprocess.run(
        [PULUMI, *args], cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def deploy(folder, outputs):
    """Put outputs into the state of `dev`; api_key as a secret."""
    state = json.loads(pulumi(folder, "stack", "export", "--stack", "dev"))
    kind = "pulumi:pulumi:Stack"
    secret = SECRET | {"plaintext": json.dumps(outputs["api_key"])}
    urn = f"urn:pulumi:dev::vast-reranker::{kind}::vast-reranker-dev"
    state["deployment"]["resources"] = [
        {"urn": urn, "custom": False, "type": kind, "outputs": outputs | {"api_key": secret}}
    ]
    pulumi(folder, "stack", "import", "--stack", "dev", given=json.dumps(state))


@pytest.mark.engine
def test_a_client_from_a_stack_reranks_over_tls_with_the_stacks_own_ca_and_key(project, server):
    deploy(project, {"url": server.url, "api_key": KEY, "ca_certificate": server.ca, "model": MODEL})
    with Reranker.from_stack("dev", cwd=project) as client:
        assert client.rerank("deep learning", ["pizza", "deep learning"])[0].index == 1
    assert server.requests()[0][1]["model"] == MODEL


@pytest.mark.engine
def test_the_selected_stack_is_read_where_none_is_named(project):
    deploy(
        project, {"url": "https://127.0.0.1:1", "api_key": KEY, "instance_id": 17, "hourly_cost_usd": {"total": 0.2}}
    )
    stack = read_stack(cwd=project)
    assert (stack.endpoint.url, stack.endpoint.api_key) == ("https://127.0.0.1:1", KEY)
    assert (stack.replicas, stack.hourly_cost_usd) == ((Replica("17"),), 0.2)
    assert KEY not in repr(stack)


@pytest.mark.engine
def test_what_is_wrong_with_a_stack_is_said(project, monkeypatch):
    with pytest.raises(NotDeployed, match=r"stack 'dev' has no output url and no api_key: deploy it first"):
        read_stack("dev", cwd=project)
    with pytest.raises(UnknownStack, match="stack 'nope': no stack named 'nope' found"):
        read_stack("nope", cwd=project)
    deploy(project, {"url": "https://127.0.0.1:1", "api_key": KEY})
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "wrong")
    with pytest.raises(WrongPassphrase, match="set PULUMI_CONFIG_PASSPHRASE") as caught:
        read_stack("dev", cwd=project)
    assert "wrong" not in str(caught.value)
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    with pytest.raises(WrongPassphrase):
        read_stack("dev", cwd=project)
    with pytest.raises(StackError, match="fully qualified name"):
        read_stack("dev", cwd=project.parent)
    pulumi(project, "stack", "unselect")
    with pytest.raises(UnknownStack, match="the selected stack: no stack selected"):
        read_stack(cwd=project)


def test_no_pulumi_and_no_folder_are_told_apart(tmp_path):
    with pytest.raises(PulumiMissing, match="'/nowhere/pulumi' cannot be run"):
        read_stack("dev", pulumi="/nowhere/pulumi")
    with pytest.raises(StackError, match="'/nowhere' is not a folder"):
        read_stack("dev", cwd="/nowhere", pulumi=sys.executable)


def test_a_pulumi_that_hangs_or_says_nonsense_is_an_error_without_its_output(tmp_path):
    fake = tmp_path / "pulumi"
    fake.write_text(f"#!{sys.executable}\nimport time\nprint('the {KEY}', flush=True)\ntime.sleep(60)\n")
    fake.chmod(0o755)
    with pytest.raises(StackError, match=r"did not finish within 0\.5 s"):
        read_stack("dev", pulumi=str(fake), timeout_s=0.5)
    fake.write_text(f"#!{sys.executable}\nprint('the {KEY}')\n")
    with pytest.raises(StackError, match="not a JSON object") as caught:
        read_stack("dev", pulumi=str(fake))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "outputs", [{"url": "nonsense", "api_key": KEY}, {"url": "https://x", "api_key": f"{KEY} {KEY}"}]
)
def test_outputs_that_cannot_be_used_are_an_error_without_the_key(outputs):
    with pytest.raises(StackError, match="the outputs are invalid") as caught:
        from_outputs("dev", outputs)
    assert KEY not in str(caught.value)
