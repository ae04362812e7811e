"""State in an S3-compatible bucket, as a team keeps it: a server on loopback, the real engine, no account of anyone."""

import logging
import os
import re
import signal

import boto3
import pytest
from moto.server import ThreadedMotoServer

from harness.stack import EngineStack
from harness.wait import until

pytestmark = [pytest.mark.engine, pytest.mark.all]

BUCKET = "pulumi-state"


class Bucket:
    """One bucket, and what is in it."""

    def __init__(self, host, port):
        self.s3 = boto3.client(
            "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
            aws_access_key_id="not-a-key", aws_secret_access_key="not-a-secret",
        )  # fmt: skip
        self.s3.create_bucket(Bucket=BUCKET)
        self.backend = f"s3://{BUCKET}?region=us-east-1&endpoint={host}:{port}&disableSSL=true&s3ForcePathStyle=true"

    def keys(self, prefix):
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in found]

    def read(self, key):
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


@pytest.fixture(scope="module")
def bucket():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield Bucket(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def team_stack(bucket, market, tmp_path):
    """Make stacks whose state is in the bucket; each is somebody's checkout, with a home of its own."""

    def make(who, name, **options):
        env = {
            "AWS_ACCESS_KEY_ID": "not-a-key",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            # or the SDK warns at each read of a server that sends no checksum
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        } | options
        stack = EngineStack(tmp_path / who, market.url, name=name, env=env)
        stack.env["PULUMI_BACKEND_URL"] = options.get("PULUMI_BACKEND_URL", bucket.backend)
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


def test_a_colleague_sees_the_same_stack_and_rents_nothing_again(team_stack, ledger):
    assert team_stack("anna", "shared").init().up().rc == 0
    colleague = team_stack("bert", "shared")
    colleague.project.joinpath("Pulumi.shared.yaml").write_text(
        (colleague.folder.parent / "anna" / "project" / "Pulumi.shared.yaml").read_text()
    )
    assert colleague.drift().rc == 0
    assert colleague.destroy().rc == 0
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
    nowhere = re.sub(r"endpoint=[^&]+", "endpoint=127.0.0.1:9", bucket.backend)
    stack = team_stack("anna", "lost", PULUMI_BACKEND_URL=nowhere, AWS_MAX_ATTEMPTS="1")
    done = stack.up()
    assert done.rc != 0
    assert "127.0.0.1:9" in done, done.text
    assert ledger.contracts() == []
