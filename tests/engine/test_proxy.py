"""`rerank proxy` before a stack that the real engine heals, rolls, and whose key is rotated, under load."""

import pytest

from harness.load import LoadGenerator
from tests.client.proxying import running_proxy
from tests.engine.fleet import Endpoint, ops, up

pytestmark = [pytest.mark.engine, pytest.mark.all]


def test_a_heal_a_roll_and_a_rotation_behind_the_proxy_fail_no_request(stack, ledger):
    up(stack)
    source = ("--stack", stack.name, "-C", stack.project)
    with running_proxy(*source, "--timeout", "120", **stack.env) as proxy:
        with LoadGenerator(Endpoint(proxy.url, "unused", ""), per_s=20, threads=4) as load:
            load.wait_for_requests(40)
            [healthy] = ledger.billed()
            ledger.control(f"instances/{healthy}/kill")
            up(stack)
            load.wait_for_requests(40)
            [healed] = ledger.billed()
            assert healed != healthy
            stack.write_config(extra_args=["--max-num-seqs", "64"])
            up(stack)
            load.wait_for_requests(40)
            assert ledger.billed() != {healed}
            begun = ops(stack, "rotate-key", "--begin")
            assert begun.rc == 0, begun.err
            load.wait_for_requests(20)
            finished = ops(stack, "rotate-key", "--finish")
            assert finished.rc == 0, finished.err
            load.wait_for_requests(40)
        assert load.failures == []
    said = "".join(proxy.stderr_lines)
    assert "the stack is at" in said
    assert "same address; its key" in said
    for key in (begun, finished):
        assert stack.outputs()["api_key"] not in key.out + key.err + said
    print(f"a heal, a roll and a rotation through the proxy: {load}")
