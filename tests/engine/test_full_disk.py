"""A disk that is full, or fills up in the middle of an `up`: what is rented then is neither lost nor billed for good.

Also a state that cannot be read because Pulumi was killed while it wrote the file beside it.

A limit on the size of files is what stands in for a full disk, as in the emulator's containers: a write ends short.
"""

import json
import resource
import subprocess
import sys

import pytest

from harness.pasted import Shell
from harness.stack import REPO, resources_of
from harness.wait import until
from tests.emulator.official_cli import Cli

pytestmark = pytest.mark.engine


def fill(process, size):
    """Let every file that the engine writes from now on end after so many bytes."""
    resource.prlimit(
        process.pid, resource.RLIMIT_FSIZE, (size, resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1])
    )


def ops(stack, *words):
    command = [sys.executable, "-m", "ops", *words, "--json", "--cwd", str(stack.project)]
    done = subprocess.run(command, cwd=REPO, env=stack.env, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_without_room_for_the_state_a_preview_warns_and_nothing_is_rented(stack, ledger):
    shell = Shell(stack.project, stack.env)
    shell.ok("ulimit -S -f 4096")  # KB
    assert "cannot store 16 MB" in shell.ok(f"pulumi preview --stack {stack.name}")
    done = shell.run(f"pulumi up --yes --skip-preview --stack {stack.name}")
    shell.close()
    assert done.rc != 0
    assert "StateError: nothing is rented: " in done
    assert ledger.contracts() == []


@pytest.mark.all
@pytest.mark.parametrize(
    ("resources", "size", "replicas"), [(3, 9_000, 1), (9, 12_000, 1), (9, 30_000, 2), (8, 600, 2)]
)
def test_a_state_that_a_full_disk_cut_off_is_recovered_and_all_of_it_destroyed(
    stack, ledger, resources, size, replicas
):
    stack.write_config(replicas=replicas)
    process = stack.start("up", "--yes", "--skip-preview")

    def reached():
        try:
            return process.poll() is not None or len(resources_of(stack.deployment())) >= resources
        except (OSError, ValueError):
            return False

    until(reached)
    fill(process, size)
    text = process.communicate(timeout=280)[0]
    assert process.returncode == 1, text
    assert "failed to save snapshot" in text
    assert stack.preview().rc == 1
    rc, failed, _ = ops(stack, "preview", "--stack", stack.name)
    assert (rc, "ops recover" in failed["remedy"]) == (8, True)
    rc, recovered, told = ops(stack, "recover", "--stack", f"organization/vast-reranker/{stack.name}")
    left = set(recovered["left"])
    assert rc == (3 if left else 0), told
    assert ledger.billed() == stack.instances() | left
    assert stack.destroy().rc == 0
    for one in left:
        Cli(stack.api_url, stack.folder)("destroy", "instance", one, "-y")
    assert ledger.billed() == set()


def test_a_state_beside_which_a_killed_pulumi_left_incomplete_attributes_is_recovered(stack, ledger):
    stack.env["PULUMI_BACKEND_URL"] = stack.env["PULUMI_BACKEND_URL"].partition("?")[0]
    assert stack.up().rc == 0
    billed = ledger.billed()
    [attributes] = stack.folder.glob(f"state/.pulumi/stacks/*/{stack.name}.json.attrs")
    attributes.write_text("")
    lock = stack.folder / f"state/.pulumi/locks/organization/vast-reranker/{stack.name}/killed.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text('{"pid": 1, "username": "anna", "hostname": "here", "timestamp": "2026-11-27T12:00:00Z"}')
    lock.with_name("killed.json.attrs").write_text("")
    code, told, _ = ops(stack, "recover", "--stack", stack.name)
    assert code == 8, told
    assert "pulumi cancel" in told["remedy"]
    assert stack.run("cancel", "--yes").rc == 0
    assert not lock.exists()
    attributes.write_text("")
    assert "failed to load checkpoint: EOF" in stack.up()
    code, told, _ = ops(stack, "preview", "--stack", stack.name)
    assert code == 8, told
    assert "python -m ops recover" in json.dumps(told)
    code, told, text = ops(stack, "recover", "--stack", stack.name)
    assert code == 0, text
    assert told["restored_from"] == "the state is complete"
    assert stack.destroy().rc == 0
    assert billed
    assert ledger.billed() == set()


def test_the_backend_of_the_docs_writes_no_attributes(stack):
    assert stack.up().rc == 0
    assert list(stack.folder.glob(f"state/.pulumi/stacks/*/{stack.name}.json"))
    assert list(stack.folder.rglob("*.attrs")) == []
    assert stack.destroy().rc == 0
