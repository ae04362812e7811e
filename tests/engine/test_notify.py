"""A failed deploy is told to the webhook of the config, by the real engine, with what was told kept as a real tag."""

import subprocess
import sys

import pytest

from harness.stack import REPO
from tests.unit.webhook import TOKEN, running_webhook

pytestmark = [pytest.mark.engine, pytest.mark.all]


def deploy(stack):
    words = [sys.executable, "-m", "ops", "deploy", "--stack", stack.name, "--cwd", str(stack.project), "-v"]
    return subprocess.run(words, cwd=REPO, env=stack.env, capture_output=True, text=True, timeout=120, check=False)


def test_a_failed_deploy_is_told_once_and_its_address_is_shown_nowhere(stack):
    stack.write_config(max_dph_usd="0.001")
    with running_webhook(200) as (url, bodies):
        stack.ok("config", "set", "--secret", "--path", "notify.webhook", url)
        stack.ok("config", "set", "--path", "notify.format", "json")
        done = [deploy(stack) for _ in range(2)]
        assert [one.returncode for one in done] == [6, 6]
        [body] = bodies
        assert (body["stack"], body["command"]) == ("vast-reranker/test", "deploy")
        [event] = body["events"]
        assert event["event"] == "failed"
        assert "no offer" in event["text"].lower()
        for one in done:
            assert TOKEN not in one.stdout + one.stderr
    assert TOKEN not in (stack.project / "Pulumi.test.yaml").read_text()
