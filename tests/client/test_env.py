"""`rerank env`: the blocks, where the key shows, the copy of the outputs; and the docs' page that is made from them."""

import io
import json
import re
import stat
import subprocess
import sys

import pytest
import yaml

from reranker.applications import read_applications
from reranker.command import run_command
from reranker.endpoint import Endpoint
from reranker.stack import read_copy
from scripts.applications import PAGE, page
from tests.client.guarded import KEY, MODEL
from tests.client.proxying import REPO, write_outputs
from tests.client.test_applications import CALLS

APPLICATIONS = read_applications()


@pytest.fixture
def env(server, tmp_path):
    outputs = write_outputs(tmp_path / "outputs.json", server)

    def run(*args):
        stdout, stderr = io.StringIO(), io.StringIO()
        code = run_command("env", ["--outputs", str(outputs), *map(str, args)], stdout, stderr)
        return subprocess.CompletedProcess(args, code, stdout.getvalue(), stderr.getvalue())

    return run


def test_the_page_is_what_the_table_makes():
    assert page() == PAGE.read_text(), "make docs"


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_block_has_every_value_in_it_and_the_key_only_on_request(env, server, name):
    done = env("--for", name, "--show-key")
    assert done.returncode == 0, done.stderr
    assert not re.search("<[A-Z]+>", done.stdout)
    assert KEY not in env("--for", name).stdout + done.stderr
    by_proxy = env("--for", name, "--proxy", "http://proxy:8787/")
    assert "http://proxy:8787" in by_proxy.stdout
    assert "http://proxy:8787//" not in by_proxy.stdout
    assert KEY not in by_proxy.stdout + by_proxy.stderr
    direct = not APPLICATIONS[name].proxy
    assert (server.url in done.stdout) == direct
    assert ("ca.pem" in done.stdout) == bool(direct and APPLICATIONS[name].ca)
    assert "ca.pem" not in by_proxy.stdout


@pytest.mark.parametrize("proxy", [(), ("--proxy",)])
def test_yaml_stays_yaml_and_json_json(env, proxy):
    for one in APPLICATIONS.values():
        text = env("--for", one.name, *proxy).stdout
        if one.language == "yaml":
            assert yaml.safe_load(text)
        if one.language == "json":
            assert json.loads(text.splitlines()[0])
        if one.language == "python":
            compile(text.split("SSL_CERT_FILE")[0], one.name, "exec")


def test_the_shells_block_is_enough_for_the_package(env, tmp_path):
    block = env("--show-key", "--write-ca", tmp_path / "ca.pem")
    assert (tmp_path / "ca.pem").stat().st_size
    script = f"{block.stdout}\n{sys.executable} -m reranker 'deep learning' pizza 'deep learning'"
    done = subprocess.run(
        ["bash", "-c", script], env={"PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.splitlines()[0].endswith("[1]  deep learning"), done.stderr


def test_of_a_public_name_no_ca_is_told_and_none_written(server, tmp_path):
    outputs = write_outputs(tmp_path / "outputs.json", server, url="https://rerank.example.com", ca_certificate="")

    def run(*args):
        stdout, stderr = io.StringIO(), io.StringIO()
        code = run_command("env", ["--outputs", str(outputs), *map(str, args)], stdout, stderr)
        return code, stdout.getvalue() + stderr.getvalue()

    code, said = run("--for", "open-webui")
    assert (code, "REQUESTS_CA_BUNDLE" in said, "ca.pem" in said) == (0, False, False)
    code, said = run("--write-ca", tmp_path / "ca.pem")
    assert code == 2
    assert "the stack has no CA of its own" in said
    assert not (tmp_path / "ca.pem").exists()


def test_a_copy_of_the_outputs_is_for_its_user_alone_and_replaces_the_last_one_whole(env, server, tmp_path):
    file = tmp_path / "copy.json"
    file.write_text("{}")
    file.chmod(0o644)
    done = env("--write", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    endpoint = read_copy(str(file)).endpoint
    assert endpoint == Endpoint(server.url, KEY, server.ca, MODEL)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    failed = env("--write", "/nowhere/copy.json")
    assert (failed.returncode, failed.stderr) == (
        2,
        "rerank: cannot write /nowhere/copy.json: No such file or directory\n",
    )


def test_what_is_called_run_is_run_by_a_test():
    by_tests = {*CALLS, "litellm", "ai-sdk", "librechat", "shell"}
    assert {one.name for one in APPLICATIONS.values() if not one.untested_reason} == by_tests
