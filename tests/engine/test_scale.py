"""ops scale through the real engine, behind a real Caddy, under load: up, down, to nothing and back, two at once;
kills, a roll and a budget in the midst of it."""

import json
import time

import pytest

from chaos.run import ALWAYS, ENGINE, PLUGIN, find_pids, kill
from harness.load import LoadGenerator
from harness.wait import until
from tests.engine.fleet import Ops, behind, endpoint, ops, up

pytestmark = [pytest.mark.engine, pytest.mark.all]


def scaled(stack, *args):
    """Run ops scale with short samples, and return what it says."""
    done = ops(stack, "scale", "--sample-s", "1", *args)
    assert done.rc == 0, done.err
    return done.document


def by_clock(stack, *replicas):
    """Have the schedule say that there are so many replicas now, the first number; others are in it for later."""
    stack.write_config(schedule={"windows": [ALWAYS | {"replicas": one} for one in replicas]})


@pytest.fixture
def two(gateway_caddy, market, tmp_path):
    return behind(gateway_caddy, tmp_path / "stack", market, replicas={"min": 2, "max": 4, "pairs_in_flight": 3})


def rented(ledger, count):
    until(lambda: len(ledger.contracts()) == count, within_s=120)


def test_a_run_that_is_killed_in_the_midst_of_a_scale_is_made_good_by_a_deploy_and_the_next_run(two, ledger):
    by_clock(two, 3)
    with LoadGenerator(endpoint(two)) as load:
        cut = Ops(two, "scale", "--sample-s", "1")
        rented(ledger, 3)
        kill([cut.process.pid, *find_pids(two.project, ENGINE, PLUGIN)])  # as a runner that goes down
        cut.end()
        assert ops(two, "scale", "--sample-s", "1").rc == 8  # it was cut off
        two.ok("cancel", "--yes")
        assert ops(two, "deploy").rc == 0
        assert len(two.instances()) == len(ledger.billed()) == 2
        assert scaled(two)["replicas"] == 3
        load.wait_for_requests(50)
    print(f"killed in a scale: {load}")
    assert load.failures == []
    assert two.instances() == ledger.billed()
    assert len(ledger.billed()) == 3
    assert two.drift().rc == 0


def test_a_host_that_dies_in_the_midst_of_a_scale_costs_no_request_and_is_healed(two, ledger):
    by_clock(two, 3)
    with LoadGenerator(endpoint(two)) as load:
        load.wait_for_requests(50)
        scale = Ops(two, "scale", "--sample-s", "1")
        rented(ledger, 3)
        dead = min(two.instances())
        ledger.control(f"instances/{dead}/kill")
        scale.end()
        print(f"host died: scale ended with {scale.rc}: {scale.document.get('error', '')}")
        assert ops(two, "heal").rc == 0
        assert scaled(two)["replicas"] == 3
        load.wait_for_requests(50)
    print(f"a host died in a scale: {load}")
    assert load.failures == []
    assert two.instances() == ledger.billed()
    assert len(ledger.billed()) == 3
    assert dead not in ledger.billed()


def test_a_roll_and_a_scale_at_once_do_one_after_the_other_and_fail_no_request(two, ledger):
    by_clock(two, 3)
    with LoadGenerator(endpoint(two)) as load:
        scale = Ops(two, "scale", "--sample-s", "1")
        rented(ledger, 3)
        early = ops(two, "roll", "--set", 'extra_args=["--max-num-seqs","64"]')
        assert scale.end().rc == 0, scale.err
        assert early.rc in (0, 8), early.err  # 8: while the other update ran
        old, before = two.instances(), len(ledger.contracts())
        assert len(old) == 3

        roll = Ops(two, "roll", "--surge", "1", "--set", 'extra_args=["--max-num-seqs","65"]')
        rented(ledger, before + 1)
        meanwhile = ops(two, "scale", "--sample-s", "1")
        assert meanwhile.rc in (8, 9) or not meanwhile.document["acted"], meanwhile.out
        assert roll.end().rc == 0, roll.err
        load.wait_for_requests(50)
    print(f"roll and scale at once: {load}")
    assert load.failures == []
    assert two.instances() == ledger.billed()
    assert len(ledger.billed()) == 3
    assert not old & ledger.billed()
    assert two.drift().rc == 0


def test_a_load_adds_no_server_that_the_budget_of_the_month_does_not_pay_for(two, ledger, tmp_path):
    two.write_config(budget_usd_month=0.05, budget_refuses=True)
    up(two)
    ledger.fault("slow_answer", seconds=0.5, route="/rerank")
    metrics = tmp_path / "textfile" / "reranker.prom"
    metrics.parent.mkdir()
    with LoadGenerator(endpoint(two), per_s=50, threads=40) as load:
        load.wait_for_requests(50)
        refused = scaled(two, "--metrics-file", str(metrics))
        assert (refused["why"], refused["replicas"]) == ("budget", 2)
        assert 'reranker_scale_decision{stack="test",why="budget"} 1' in metrics.read_text()
        two.write_config(budget_usd_month=5000)
        up(two)
        assert scaled(two, "--metrics-file", str(metrics))["replicas"] == 3
    assert 'reranker_scale_replicas{stack="test"} 3' in metrics.read_text()
    assert len(ledger.billed()) == 3


def test_a_fleet_follows_its_load_and_the_clock_and_fails_no_request(gateway_caddy, market, ledger, tmp_path):
    replicas = {"min": 1, "max": 4, "pairs_in_flight": 3}
    stack = behind(gateway_caddy, tmp_path / "stack", market, replicas=replicas)
    at = endpoint(stack)
    assert len(stack.instances()) == 1
    ledger.fault("slow_answer", seconds=0.5, route="/rerank")  # 25 in flight, 12 are enough for four

    with LoadGenerator(at, per_s=50, threads=40) as busy:
        busy.wait_for_requests(50)
        both = [Ops(stack, "scale", "--sample-s", "1") for _ in range(2)]
        codes = sorted(one.end().rc for one in both)
        assert codes == [0, 8], [one.err for one in both]
        assert len(stack.instances()) == len(ledger.billed()) == 2
        assert [scaled(stack)["replicas"] for _ in range(2)] == [3, 4]
        up(stack)  # a deploy from git keeps the number
        assert len(ledger.billed()) == 4
        assert scaled(stack)["why"] == "limits"
        busy.wait_for_requests(50)
    print(f"up: {busy}")
    assert busy.failures == []

    with LoadGenerator(at, per_s=3, threads=4) as calm:
        calm.wait_for_requests(5)
        before = scaled(stack)
        assert (before["acted"], before["replicas"]) == (False, 4)
        assert before["lull"]["needed"] < 4
        an_hour_ago = before["lull"] | {"since_s": time.time() - 3600, "needed": 1}
        stack.ok("stack", "tag", "set", "ops:lull", json.dumps(an_hour_ago))
        down = scaled(stack)
        calm.wait_for_requests(5)
    print(f"down: {calm}")
    assert (down["why"], len(ledger.billed())) == ("idle", down["replicas"])
    assert down["replicas"] < 3
    assert calm.failures == []
    assert stack.drift().rc == 0

    by_clock(stack, 0)
    assert scaled(stack)["replicas"] == 0
    assert ledger.billed() == set()
    answer = at.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert stack.drift().rc == 0
    by_clock(stack, 2, 0)
    assert scaled(stack)["replicas"] == 2
    assert at.ask().status_code == 200
    stack.write_config(extra_args=["--max-num-seqs", "64"], replicas={"min": 3, "max": 4}, schedule=None)
    waiting = ops(stack, "scale", "--sample-s", "1")
    assert waiting.rc == 9, waiting.out  # changes that are not deployed, as in the midst of a roll
    assert stack.destroy().rc == 0
    assert ledger.billed() == set()
