"""For people who run Caddy themselves: a rendered caddy.json, with keys and certificates in files beside it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

from components.caddy.process import running
from emulator.runtime import free_port
from tests.gateway.conftest import MODEL, Front, leaf, until

REPO = Path(__file__).resolve().parents[2]
EXAMPLES = REPO / "examples" / "gateway"


def render(*args):
    command = [sys.executable, "-m", "components.caddy", "render", *args]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)


def test_a_rendered_config_serves_with_keys_from_files_that_may_change(rerankers, tmp_path, authority, upstream_key):
    two = rerankers(2)
    certificate, private_key = leaf(authority)
    files = {"inbound_key": "i" * 40 + "\n", "upstream_key": upstream_key + "\n", "tls_cert": certificate,
             "tls_key": private_key, "upstream_ca": authority.certificate}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    port = free_port("127.0.0.1")
    done = render(
        "--model", MODEL, "--upstream", f"https://{two[0].address}", "--upstream", two[1].address,
        "--listen", f"127.0.0.1:{port}", "--inbound-key-file", str(tmp_path / "inbound_key"),
        "--upstream-key-file", str(tmp_path / "upstream_key"), "--upstream-ca-file", str(tmp_path / "upstream_ca"),
        "--cert-file", str(tmp_path / "tls_cert"), "--key-file", str(tmp_path / "tls_key"),
        "--admin-listen", f"unix/{tmp_path}/own/admin.sock|0600",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for secret in (upstream_key, "i" * 40, private_key.splitlines()[1]):
        assert secret not in done.stdout
    with running(tmp_path / "own", json.loads(done.stdout)):
        one = Front(None, None, str(tmp_path / "upstream_ca"), f"https://127.0.0.1:{port}", "i" * 40)
        until(lambda: one.ask().status_code == 200)
        assert one.ask(key="j" * 40).status_code == 401
        (tmp_path / "inbound_key").write_text("j" * 40)
        assert one.ask(key="j" * 40).status_code == 200
        assert one.ask().status_code == 401


def test_values_that_cannot_work_are_named(tmp_path):
    done = render("--model", MODEL, "--upstream", "nowhere", "--listen", "x")
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        "listen", "inbound_keys", "upstream_key", "upstreams",
    ]  # fmt: skip


def test_the_help_tells_what_to_run():
    done = subprocess.run(
        [sys.executable, "-m", "components.caddy", "--help"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "pulumi stack output ca_certificate" in done.stdout


def test_the_examples_mount_every_file_that_the_rendered_config_reads():
    script = (EXAMPLES / "render.sh").read_text()
    wanted = set(re.findall(r"/run/secrets/(\w+)", script))
    compose = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
    gateway = compose["services"]["gateway"]
    assert set(gateway["secrets"]) == set(compose["secrets"]) == wanted
    deployment, service = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    mounts = {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    assert {"/run/secrets", "/etc/caddy"} <= mounts
    created = set(re.findall(r"--from-file=(\w+)=", (EXAMPLES / "kubernetes.yaml").read_text()))
    assert created == wanted
    assert pod["containers"][0]["command"] == gateway["command"]
    assert pod["containers"][0]["ports"][0]["containerPort"] == 8443
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
