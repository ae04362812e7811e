"""State in an S3-compatible bucket, as a team keeps it: a server on loopback, the real engine, no account of anyone."""

import json
import os
import signal
import time

import pytest

from harness.stack import EngineStack
from harness.wait import until
from tests import s3_server
from tests.engine.fleet import Ops

pytestmark = [pytest.mark.engine, pytest.mark.all]


@pytest.fixture(scope="module")
def bucket():
    with s3_server.running() as running:
        yield running


@pytest.fixture
def team_stack(bucket, market, tmp_path):
    """Make stacks whose state is in the bucket; each is somebody's checkout, with a home of its own."""

    def make(who, name, **options):
        stack = EngineStack(tmp_path / who, market.url, name=name, env=s3_server.ENV | options)
        stack.env["PULUMI_BACKEND_URL"] = options.get("PULUMI_BACKEND_URL", bucket.backend())
        return stack

    return make


def test_a_stack_lives_in_the_bucket_from_up_to_destroy_and_no_key_is_there_in_clear(team_stack, bucket, ledger):
    stack = team_stack("anna", "life").init()
    done = stack.up()
    assert done.rc == 0, done.text
    (state,) = bucket.keys(".pulumi/stacks/vast-reranker/life.json")[:1]
    out = stack.outputs()
    stored = [bucket.read(key) for key in bucket.keys(".pulumi/")]
    assert len(stored) > 3
    for text in stored:
        assert out["api_key"] not in text
        assert "emulator-key" not in text
    assert str(out["instance_id"]) in bucket.read(state)
    assert stack.drift().rc == 0
    done = stack.destroy()
    assert done.rc == 0, done.text
    assert ledger.billed() == set()
    assert bucket.keys(".pulumi/locks") == []
    (month,) = bucket.keys(".pulumi/ledger/vast-reranker/life/")
    events = [json.loads(line) for line in bucket.read(month).splitlines()]
    assert [event["kind"] for event in events] == ["intent", "rent", "serving", "end"]
    assert {event["instance_id"] for event in events[1:]} == {out["instance_id"]}


def test_a_colleague_sees_the_same_stack_and_rents_nothing_again(team_stack, ledger):
    assert team_stack("anna", "shared").init().up().rc == 0
    colleague = team_stack("bert", "shared")
    colleague.project.joinpath("Pulumi.shared.yaml").write_text(
        (colleague.folder.parent / "anna" / "project" / "Pulumi.shared.yaml").read_text()
    )
    assert colleague.drift().rc == 0
    cost = Ops(colleague, "cost").end()
    assert cost.rc == 0, cost.err
    [contract] = cost.document["contracts"]
    assert contract["serving_at"]
    assert colleague.destroy().rc == 0
    assert ledger.billed() == set()


def test_a_colleague_who_may_only_read_the_bucket_sees_the_cost_and_what_the_ledger_lacks(team_stack, bucket, ledger):
    anna = team_stack("anna", "reader").init()
    assert anna.up().rc == 0
    [key] = bucket.keys(".pulumi/ledger/vast-reranker/reader/")
    gone = {"kind": "rent", "at": time.time() - 3600, "name": "vast-reranker/reader/reranker", "instance_id": 999}
    text = f"{json.dumps(gone)}\n{bucket.read(key)}"
    bucket.s3.put_object(Bucket=s3_server.BUCKET, Key=key, Body=text.encode())
    between = s3_server.Between(bucket, may_put=False)
    try:
        backend = bucket.backend("", between.address)
        reader = team_stack("bert", "reader", PULUMI_BACKEND_URL=backend)
        source = anna.project / "Pulumi.reader.yaml"
        reader.project.joinpath(source.name).write_text(source.read_text())
        for _ in range(2):
            cost = Ops(reader, "cost").end()
            assert cost.rc == 0, cost.err
            reasons = {contract["instance_id"]: contract["reason"] for contract in cost.document["contracts"]}
            assert reasons == {999: "killed run", anna.outputs()["instance_id"]: ""}
    finally:
        between.listening.close()
    assert between.puts == 1
    assert bucket.read(key) == text
    assert anna.destroy().rc == 0
    assert ledger.billed() == set()


def test_two_at_once_is_refused_with_who_holds_the_lock_and_a_lock_left_by_a_kill_is_cancelled(
    team_stack, bucket, ledger
):
    stack = team_stack("anna", "locked").init()
    first = stack.start("up", "--yes", "--skip-preview")
    until(lambda: bucket.keys(".pulumi/locks"))
    second = stack.up()
    assert second.rc != 0
    assert "the stack is currently locked by 1 lock(s)" in second, second.text
    assert "created by" in second
    assert "pulumi cancel" in second
    assert first.poll() is None, "the first ended before the second was refused"

    until(ledger.contracts)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert "the stack is currently locked" in stack.up()
    assert stack.run("cancel", "--yes").rc == 0
    assert bucket.keys(".pulumi/locks") == []
    done = stack.up()
    assert done.rc == 0, done.text
    assert ledger.billed() == {stack.outputs()["instance_id"]}
    assert stack.destroy().rc == 0


def test_a_backend_that_cannot_be_reached_is_named_and_nothing_is_rented(team_stack, bucket, ledger):
    nowhere = bucket.backend(address="127.0.0.1:9")
    stack = team_stack("anna", "lost", PULUMI_BACKEND_URL=nowhere, AWS_MAX_ATTEMPTS="1")
    done = stack.up()
    assert done.rc != 0
    assert "127.0.0.1:9" in done, done.text
    assert ledger.contracts() == []
