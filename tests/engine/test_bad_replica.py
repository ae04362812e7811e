"""One bad replica of several: what came up is kept, the error names what did not, nothing in use is destroyed."""

import json

import pytest

from components.guard.keys import MANAGEMENT
from harness.load import LoadGenerator
from harness.stack import EngineStack
from harness.wait import until
from tests.engine.fleet import AtTerminal, behind, endpoint, ops

pytestmark = pytest.mark.engine


@pytest.mark.all
def test_a_first_deploy_keeps_what_came_up_and_names_what_did_not(gateway_caddy, market, ledger, tmp_path):
    config = {"replicas": 3, "max_tries": 1, **gateway_caddy.config}
    env = {"SSL_CERT_FILE": gateway_caddy.ca_file}
    stack = EngineStack(tmp_path / "stack", market.url, config=config, env=env).init()
    ledger.control("faults", kind="oci_error", times=1)
    done = ops(stack, "deploy")
    assert done.rc == 1, done.err
    assert "1 of at most 1 candidates were tried, none serves" in done.document["error"]
    assert len(stack.instances()) == 2
    assert stack.instances() == ledger.billed()
    kept = stack.instances()
    done = ops(stack, "deploy")
    assert done.rc == 0, done.err
    assert kept < stack.instances() == ledger.billed()
    status = ops(stack, "status").document
    assert all(one["took_ms"] > 0 for one in (*status["instances"], status["gateway"]))
    assert len(status["instances"]) == 3
    written = ops(stack, "logs", "--lines", "500").document["lines"]
    assert len(written) == 3
    assert all("Application startup complete." in " ".join(lines) for lines in written.values())
    asked = ops(stack, "logs", "--since", "10m", "--key", MANAGEMENT).document["lines"]  # the gateway's checks
    assert all(json.loads(lines[-1])["key"] == MANAGEMENT for lines in asked.values()), asked
    follow = AtTerminal(stack, "logs", "-f", "--lines", "500")
    until(lambda: follow.output.count("Application startup complete.") >= 3)
    follow.interrupt()
    assert follow.end() == 0, follow.output
    watch = AtTerminal(stack, "status", "--watch", "0.5")
    until(lambda: watch.output.count("every 0.5 s") >= 2)
    watch.interrupt()
    assert watch.end() == 0, watch.output
    last = watch.output.split("\x1b[H")[-1]
    assert last.count("yes, ") == 4, last
    assert "gateway" in last
    done = ops(stack, "destroy", "--yes")
    assert done.rc == 0, done.err
    assert ledger.billed() == set()


@pytest.mark.all
def test_a_failed_deploy_destroys_nothing_that_the_gateway_sends_to(gateway_caddy, market, ledger, tmp_path):
    stack = behind(gateway_caddy, tmp_path / "stack", market, replicas=2, max_tries=1)
    old = stack.instances()
    stack.write_config(extra_args=["--max-num-seqs", "64"])
    ledger.control("faults", kind="oci_error", times=1)
    with LoadGenerator(endpoint(stack)) as load:
        load.wait_for_requests(50)
        done = ops(stack, "deploy")
        load.wait_for_requests(50)
        assert done.rc == 1, done.err
        assert old < ledger.billed()
        done = ops(stack, "deploy")
        load.wait_for_requests(50)
    assert done.rc == 0, done.err
    assert load.failures == []
    assert stack.instances() == ledger.billed()
    assert not old & ledger.billed()
