"""ops rotate-key under load: a key that is valid at its moment is never refused, and the old one is refused after."""

import pytest

from harness.load import LoadGenerator
from harness.wait import until
from tests.engine.fleet import AtTerminal, Endpoint, Ops, behind, endpoint, ops

pytestmark = pytest.mark.engine


def rotated(stack, ledger):
    """Rotate in two halves, with load by each key for as long as it is valid."""
    old, rented = endpoint(stack), len(ledger.contracts())
    with LoadGenerator(old, per_s=40, threads=4) as by_old:
        by_old.wait_for_requests(20)
        begun = Ops(stack, "rotate-key", "--begin")
        new_key = until(lambda: (key := stack.outputs()["api_key"]) != old.key and key, within_s=300)
        new = Endpoint(old.url, new_key, old.ca)
        with LoadGenerator(new, per_s=40, threads=4) as by_new:
            assert begun.end().rc == 0, begun.err
            by_new.wait_for_requests(40)
            by_old.wait_for_requests(40)
            by_old.stop()  # clients of the old key have the new one: now it may go
            finished = ops(stack, "rotate-key", "--finish")
            by_new.wait_for_requests(40)
    assert finished.rc == 0, finished.err
    assert by_old.failures == []
    assert by_new.failures == []
    assert (old.ask().status_code, new.ask().status_code) == (401, 200)
    assert len(ledger.contracts()) == rented
    for key in (old.key, new.key):
        assert key not in begun.out + begun.err + finished.out + finished.err
    assert stack.outputs()["api_key"] == new_key
    drift = stack.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text
    print(f"rotation: {len(by_old.results)} requests by the old key, {len(by_new.results)} by the new, 0 refused")


@pytest.mark.all
def test_a_server_takes_both_keys_and_then_the_new_one_only(stack, ledger, tmp_path):
    assert stack.up().rc == 0
    rotated(stack, ledger)

    # a key of the config's own: it moves to api_key_previous for the time of the change
    stack.set_secret("api_key", "a-key-of-the-configs-own")
    assert stack.up().rc == 0
    rotated(stack, ledger)
    assert "api_key_previous" not in (stack.project / "Pulumi.test.yaml").read_text()

    # cut off after the config was written, and before it was deployed
    stack.run("config", "rm", "api_key")
    assert stack.up().rc == 0
    rented, old = len(ledger.contracts()), endpoint(stack)
    stack.write_config(api_key_generation=int(stack.config.get("api_key_generation", 2)) + 7, keep_previous_key=True)
    done = ops(stack, "rotate-key", "--finish")
    assert done.rc == 2, done.err
    assert "was never deployed" in done.document["error"]
    assert old.ask().status_code == 200
    asked = AtTerminal(stack, "rotate-key")
    until(lambda: "press Enter when" in asked.output or asked.process.poll() is not None, within_s=200)
    assert "continues a begin that was interrupted" in asked.output
    assert old.ask().status_code == endpoint(stack).ask().status_code == 200
    asked.type("\n")
    assert asked.end() == 0, asked.output
    assert "was changed: commit it" in asked.output
    assert (old.ask().status_code, endpoint(stack).ask().status_code) == (401, 200)
    assert len(ledger.contracts()) == rented
    for args, said in ((["--finish"], "no rotation has begun"), ([], "no terminal to confirm")):
        done = ops(stack, "rotate-key", *args)
        assert done.rc == 2, done.err
        assert said in done.document["error"]

    stack.write_config(keep_previous_key=None, extra_args=["--max-num-seqs", "64"])
    before = (stack.project / "Pulumi.test.yaml").read_bytes()
    done = ops(stack, "rotate-key", "--grace-s", "0")
    assert done.rc == 9, done.err
    assert "reranker (replace)" in done.document["error"]
    assert (stack.project / "Pulumi.test.yaml").read_bytes() == before


@pytest.mark.all
def test_a_gateway_takes_both_keys_and_then_the_new_one_only(gateway_caddy, market, ledger, tmp_path):
    rotated(behind(gateway_caddy, tmp_path / "stack", market, replicas=2), ledger)
