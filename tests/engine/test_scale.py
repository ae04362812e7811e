"""ops scale through the real engine, behind a real Caddy, under load: up, down, to nothing and back, two at once."""

import json
import time

import pytest

from harness.load import Load
from tests.engine.fleet import Ops, behind, endpoint, ops, up

pytestmark = [pytest.mark.engine, pytest.mark.all]
EVERY_DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def scaled(stack, *args):
    """Run ops scale with short samples, and return what it says."""
    done = ops(stack, "scale", "--sample-s", "1", *args)
    assert done.rc == 0, done.err
    return done.document


def test_a_fleet_follows_its_load_and_the_clock_and_fails_no_request(gateway_caddy, market, ledger, tmp_path):
    replicas = {"min": 1, "max": 4, "pairs_in_flight": 3}
    stack = behind(gateway_caddy, tmp_path / "stack", market, replicas=replicas)
    at = endpoint(stack)
    assert len(stack.instances()) == 1
    ledger.fault("slow_answer", seconds=0.5, route="/rerank")  # 25 in flight, 12 are enough for four

    with Load(at, per_s=50, threads=40) as busy:
        busy.more(50)
        both = [Ops(stack, "scale", "--sample-s", "1") for _ in range(2)]
        codes = sorted(one.end().rc for one in both)
        assert codes == [0, 8], [one.err for one in both]
        assert len(stack.instances()) == len(ledger.billed()) == 2
        assert [scaled(stack)["replicas"] for _ in range(2)] == [3, 4]
        up(stack)  # a deploy from git keeps the number
        assert len(ledger.billed()) == 4
        assert scaled(stack)["why"] == "limits"
        busy.more(50)
    print(f"up: {busy}")
    assert busy.failures == []

    with Load(at, per_s=3, threads=4) as calm:
        calm.more(5)
        before = scaled(stack)
        assert (before["acted"], before["replicas"]) == (False, 4)
        assert before["lull"]["needed"] < 4
        an_hour_ago = before["lull"] | {"since_s": time.time() - 3600, "needed": 1}
        stack.ok("stack", "tag", "set", "ops:lull", json.dumps(an_hour_ago))
        down = scaled(stack)
        calm.more(5)
    print(f"down: {calm}")
    assert (down["why"], len(ledger.billed())) == ("idle", down["replicas"])
    assert down["replicas"] < 3
    assert calm.failures == []
    assert stack.drift().rc == 0

    always = {"days": EVERY_DAY, "from": "00:00", "to": "00:00", "replicas": 0}
    stack.write_config(schedule={"windows": [always]})
    assert scaled(stack)["replicas"] == 0
    assert ledger.billed() == set()
    answer = at.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert stack.drift().rc == 0
    stack.write_config(schedule={"windows": [always | {"replicas": 2}, always]})
    assert scaled(stack)["replicas"] == 2
    assert at.ask().status_code == 200
    stack.write_config(extra_args=["--max-num-seqs", "64"], replicas={"min": 3, "max": 4}, schedule=None)
    waiting = ops(stack, "scale", "--sample-s", "1")
    assert waiting.rc == 9, waiting.out  # changes that are not deployed, as in the midst of a roll
    assert stack.destroy().rc == 0
    assert ledger.billed() == set()
