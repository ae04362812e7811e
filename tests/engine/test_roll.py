"""ops roll and ops heal on a fleet of three behind a real Caddy, under load."""

import signal

import pytest

from emulator.server import EmulatorServer
from harness.caddy import running_gateway_caddy
from harness.load import LoadGenerator
from harness.wait import until
from tests.engine.fleet import BilledCount, Ops, behind, endpoint, ops

pytestmark = pytest.mark.engine
QUEUE = 'extra_args=["--max-num-seqs","64"]'


@pytest.fixture
def three(gateway_caddy, market, tmp_path):
    return behind(gateway_caddy, tmp_path / "stack", market, replicas=3)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    with (
        running_gateway_caddy(folder) as gateway_caddy,
        EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market,
    ):
        stack = behind(gateway_caddy, folder / "stack", market, replicas=2)
        yield stack


@pytest.mark.all
def test_a_roll_replaces_all_servers_one_at_a_time_and_fails_no_request(three, ledger, tmp_path):
    at, old = endpoint(three), three.instances()
    with LoadGenerator(at) as load, BilledCount(ledger) as billed:
        load.wait_for_requests(50)
        done = ops(three, "roll", "--surge", "1", "--set", QUEUE, "--markdown", str(tmp_path / "roll.md"))
        load.wait_for_requests(50)
    assert done.rc == 0, done.err
    assert (tmp_path / "roll.md").read_text().startswith("### `test` roll: 3 servers replaced\n")
    assert len(done.err.splitlines()) < 10, done.err  # Pulumi's 900 lines are in a log
    assert load.failures == []
    print(f"roll: {load}")
    assert billed.max == 4
    assert len(done.document["batches"]) == 3
    assert three.instances() == ledger.billed()
    assert not three.instances() & old
    assert {one["instance_id"] for one in three.outputs()["replicas"]} == ledger.billed()
    assert done.document["config_changed"]
    assert "--max-num-seqs" in (three.project / "Pulumi.test.yaml").read_text()
    drift = three.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text


@pytest.mark.all
def test_a_roll_whose_servers_fail_goes_back_and_fails_no_request(three, ledger, tmp_path):
    path = three.project / "Pulumi.test.yaml"
    path.write_text("# kept, byte for byte\n" + path.read_text())
    at, old, before = endpoint(three), three.instances(), path.read_bytes()
    with LoadGenerator(at) as load:
        load.wait_for_requests(50)
        done = ops(three, "roll", "--surge", "2", "--set", QUEUE, "--set", "max_latency_ms=1")
        load.wait_for_requests(50)
    assert done.rc == 1, done.err
    assert "Rolled back" in done.document["error"]
    assert "latency" in done.document["error"]
    assert load.failures == []
    print(f"roll that went back: {load}")
    assert path.read_bytes() == before
    assert three.instances() == ledger.billed() == old  # the servers of the failed batch were never destroyed
    drift = three.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text

    done = ops(three, "roll", "--set", 'extra_args=["--dtype","nonsense"]')  # its server ends with a usage message
    assert done.rc != 0, done.out
    assert "Rolled back" in done.document["error"]
    assert path.read_bytes() == before
    assert three.instances() == ledger.billed()
    drift = three.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text


@pytest.mark.all
def test_a_killed_server_is_healed_alone_and_fails_no_request(three, ledger, tmp_path):
    at, old = endpoint(three), three.instances()
    killed = sorted(old)[1]
    with LoadGenerator(at) as load:
        load.wait_for_requests(50)
        ledger.control(f"instances/{killed}/kill")
        load.wait_for_requests(50)
        done = ops(three, "heal")
        load.wait_for_requests(50)
    assert done.rc == 0, done.err
    assert load.failures == []
    print(f"kill and heal: {load}")
    assert old - three.instances() == {killed}
    assert three.instances() == ledger.billed()
    drift = three.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text


@pytest.mark.all
def test_a_roll_of_what_is_declared_stops_where_it_fails_and_goes_on_when_that_is_put_right(three, ledger, tmp_path):
    path, at, old = three.project / "Pulumi.test.yaml", endpoint(three), three.instances()
    three.write_config(extra_args=["--max-num-seqs", "64"], max_latency_ms=1)
    declared = path.read_bytes()
    with LoadGenerator(at) as load, BilledCount(ledger) as billed:
        done = ops(three, "roll")
        assert done.rc == 1, done.err
        assert "No server was destroyed before its replacement was ready" in done.document["error"]
        assert path.read_bytes() == declared
        assert old < ledger.billed()
        three.write_config(max_latency_ms=None)

        cut = Ops(three, "roll", "--set", "limits.max_documents=900")
        until(lambda: len(old & ledger.billed()) == 2, within_s=200)  # the first batch is over, or about to be
        cut.process.send_signal(signal.SIGINT)
        assert cut.end().rc == 1, cut.out
        assert "interrupted" in cut.document["error"]
        assert "max_documents: 900" in path.read_text().replace('"', "")
        done = ops(three, "roll")
        load.wait_for_requests(50)
    assert done.rc == 0, done.err
    assert load.failures == []
    print(f"roll that failed, was put right, cut off, went on: {load}")
    assert billed.max <= 5
    assert three.instances() == ledger.billed()
    assert not old & ledger.billed()
    drift = three.run("preview", "--expect-no-changes")
    assert drift.rc == 0, drift.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--set", "replicas=4"],
            "a roll only replaces servers, and the plan also changes: reranker-3 (create), reranker-4 (create)",
        ),
        (["--set", "tls=off"], "reranker-ca (delete)"),
        (["--set", "model=BAAI/bge-reranker-base"], "another model"),
        (["--set", QUEUE, "--set", "replace=in_place"], "destroyed before its replacement serves"),
        (["--set", 'extra_args=["--no-such-flag"]'], "--no-such-flag is not a flag of vLLM"),
    ],
)
@pytest.mark.all
def test_what_is_no_roll_is_refused_and_leaves_the_config_as_it_was(two, words, said):
    path = two.project / "Pulumi.test.yaml"
    before = path.read_bytes()
    done = ops(two, "roll", *words)
    assert done.rc in (2, 9), done.err
    assert said in done.document["error"]
    assert path.read_bytes() == before
