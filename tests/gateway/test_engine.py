"""A small program with nothing but a Gateway, under the real engine: up, in sync, drift, restored, rolled, gone."""

import json
import secrets
import subprocess
from pathlib import Path

import pytest
import yaml

from components.records import record
from harness.load import LoadGenerator
from harness.stack import tool_path
from harness.wait import until

REPO = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
import pulumi
from components.caddy.spec import GatewayPolicy
from components.gateway import Gateway, GatewayArgs
from components.vllm.catalog import load_catalog

READINESS = load_catalog().model("sentence-transformers/all-MiniLM-L6-v2").readiness
args = json.loads(open("gateway.json").read())
gateway = Gateway("gateway", GatewayArgs(**args, readiness=READINESS, policy=GatewayPolicy(check_every_s=1)))
pulumi.export("drift", gateway.drift)
"""


class Program:
    """A project in a folder of its own, its state in another."""

    def __init__(self, folder, args):
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        (folder / "components").symlink_to(REPO / "components")
        (folder / "__main__.py").write_text(PROGRAM)
        project = {"name": "gateway-only", "runtime": "python", "options": {"refresh": "always"}}
        (folder / "Pulumi.yaml").write_text(yaml.safe_dump(project))
        self.env = {
            "PATH": tool_path(),
            "HOME": str(folder),
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": secrets.token_hex(8),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.write(args)
        assert self.run("stack", "init", "test")[0] == 0

    def write(self, args):
        (self.folder / "gateway.json").write_text(json.dumps(args))

    def run(self, *argv):
        done = subprocess.run(
            ["pulumi", *argv, "--non-interactive", "--color", "never"],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def up(self):
        return self.run("up", "--yes", "--skip-preview")


def upstream(reranker):
    return record(reranker.upstream) | {"address": f"https://{reranker.address}"}


@pytest.mark.all
@pytest.mark.engine
def test_a_gateway_lives_through_up_drift_roll_and_destroy(tmp_path, caddy, rerankers, front):
    two = rerankers(2)
    one = front(two[:1])
    gateway = one.gateway
    args = {
        "site": "test",
        "admin_url": caddy.admin_url,
        "listen": gateway.listen,
        "inbound_keys": list(gateway.inbound_keys),
        "upstreams": [upstream(two[0])],
        "upstream_ca": gateway.upstream_ca,
        "settle_s": 0.3,
    }
    program = Program(tmp_path / "program", args)
    rc, text = program.up()
    assert rc == 0, text
    until(lambda: one.ask().status_code == 200)
    rc, text = program.run("preview", "--expect-no-changes")
    assert rc == 0, text

    caddy.stop()
    caddy.start()
    rc, text = program.run("preview", "--expect-no-changes")
    assert rc != 0
    assert "restarted-empty" in text
    rc, text = program.up()
    assert rc == 0, text
    until(lambda: one.ask().status_code == 200)

    program.write({**args, "upstreams": [upstream(two[1])]})
    with LoadGenerator(one) as load:
        load.wait_for_requests(20)
        rc, text = program.up()
        assert rc == 0, text
        two[0].kill()
        load.wait_for_requests(50)
    assert "nothing in flight" in text
    assert load.failures == []
    assert load.rate_per_s >= 50

    rc, text = program.run("preview", "--expect-no-changes")
    assert rc == 0, text
    state = "".join(path.read_text() for path in (tmp_path / "program" / "state").rglob("*") if path.is_file())
    for secret in (one.key, two[0].key, two[1].key):
        assert secret not in state

    program.write({**args, "upstreams": [upstream(two[1]) | {"address": "nowhere"}]})
    rc, text = program.up()
    assert rc != 0
    assert "upstreams: 'nowhere'; accepted: host:port" in text
    assert "Traceback" not in text

    rc, text = program.run("destroy", "--yes", "--skip-preview")
    assert rc == 0, text
    assert not caddy.admin.config()
