"""ops/rotate_key under load: a key that is valid at its moment is never refused, and the old one is refused after."""

import pytest
import requests

from components.caddy.process import running
from tests.engine.conftest import until
from tests.engine.fleet import Front, Ops, behind, front, ops
from tests.gateway.conftest import BODY, Load

pytestmark = pytest.mark.engine


@pytest.fixture
def caddy(tmp_path_factory):
    with running(tmp_path_factory.mktemp("c")) as process:
        yield process


def status(at):
    headers = {"Authorization": f"Bearer {at.key}"}
    return requests.post(f"{at.url}/rerank", json=BODY, headers=headers, verify=at.ca, timeout=30).status_code


def rotated(stack, ledger, tmp_path):
    """Rotate in two halves, with load by each key for as long as it is valid."""
    old, rented = front(stack, tmp_path), len(ledger.contracts())
    with Load(old, per_s=40, threads=4) as by_old:
        by_old.more(20)
        begun = Ops(stack, "rotate_key", "--begin")
        new_key = until(lambda: (key := stack.outputs()["api_key"]) != old.key and key, within_s=300)
        new = Front(old.url, new_key, old.ca)
        with Load(new, per_s=40, threads=4) as by_new:
            assert begun.end().rc == 0, begun.err
            by_new.more(40)
            by_old.more(40)
            by_old.stop()  # clients of the old key have the new one: now it may go
            finished = ops(stack, "rotate_key", "--finish")
            by_new.more(40)
    assert finished.rc == 0, finished.err
    assert by_old.failures == []
    assert by_new.failures == []
    assert (status(old), status(new)) == (401, 200)
    assert len(ledger.contracts()) == rented
    for key in (old.key, new.key):
        assert key not in begun.out + begun.err + finished.out + finished.err
    assert stack.outputs()["api_key"] == new_key
    drift = stack.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text
    print(
        f"rotation: {len(by_old.latencies_s)} requests by the old key, {len(by_new.latencies_s)} by the new, 0 refused"
    )


def test_a_server_takes_both_keys_and_then_the_new_one_only(stack, ledger, tmp_path):
    assert stack.up().rc == 0
    rotated(stack, ledger, tmp_path)

    # a key of the config's own: it moves to api_key_previous for the time of the change
    stack.set_secret("api_key", "a-key-of-the-configs-own")
    assert stack.up().rc == 0
    rotated(stack, ledger, tmp_path)
    assert "api_key_previous" not in (stack.project / "Pulumi.test.yaml").read_text()

    stack.write_config(extra_args=["--max-num-seqs", "64"])
    before = (stack.project / "Pulumi.test.yaml").read_bytes()
    done = ops(stack, "rotate_key", "--grace-s", "0")
    assert done.rc == 9, done.err
    assert "reranker (replace)" in done.document["error"]
    assert (stack.project / "Pulumi.test.yaml").read_bytes() == before


def test_a_gateway_takes_both_keys_and_then_the_new_one_only(caddy, market, ledger, tmp_path):
    rotated(behind(caddy, tmp_path / "stack", market, replicas=2), ledger, tmp_path)
