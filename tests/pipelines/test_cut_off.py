"""A deploy that is told to stop, and one that is killed: what is billed is what the state knows, and the way back."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.stack import REPO
from harness.wait import until
from ops import exits

pytestmark = [pytest.mark.engine, pytest.mark.all]


def deploy(scene):
    """Start a deploy whose first machine never gets on with its boot; return its process once that is rented."""
    scene.ledger.control("faults", kind="stuck_loading")
    command = [sys.executable, "-m", "ops", "deploy", "--stack", "dev", "--cwd", str(scene.checkout)]
    process = subprocess.Popen(
        command, cwd=REPO, env=scene.stack.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(scene.ledger.billed)
    return process


def test_a_deploy_that_is_told_to_stop_ends_in_good_order(scene):
    scene.stack.init()
    scene.stack.write_config({"timeouts.stall_s": 3}, max_tries=1)
    process = deploy(scene)
    for _ in range(2):  # a pipeline that is cancelled asks twice
        process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, -signal.SIGTERM), text
    assert "pulumi stops cleanly" in text
    assert scene.ledger.billed() == scene.stack.instances() == set()


def test_a_deploy_that_is_killed_is_told_from_drift_and_the_next_one_goes_on(scene):
    scene.stack.write_config({"timeouts.stall_s": 60}, max_tries=2)
    process = deploy(scene)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: not scene.ledger.billed())

    done = scene.job("drift", "drift", "dev")
    assert done.rc == exits.BUSY, done.log
    assert "has an update that is running or was interrupted" in done.log
    assert scene.forge.issues == {}

    done = scene.job("deploy", "dev")
    assert done.rc == exits.BUSY, done.log
    assert "`pulumi cancel --stack NAME`" in done.summary
    assert scene.stack.run("cancel", "--yes").rc == 0

    scene.market.control.faults_off()
    done = scene.job("deploy", "dev")
    assert done.rc == 0, done.log
    assert scene.ledger.billed() == scene.stack.instances()
    assert scene.job("drift", "drift", "dev").rc == 0
    assert scene.stack.destroy().rc == 0
    assert scene.ledger.billed() == set()
