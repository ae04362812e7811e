"""Whoever can write the state, without its passphrase: what `ops` refuses before the engine reads it."""

import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from harness.stack import REPO

pytestmark = pytest.mark.engine


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def ops(stack, verb, *words):
    command = [sys.executable, "-m", "ops", verb, "--json", "--stack", stack.name, "--cwd", str(stack.project), *words]
    done = subprocess.run(command, cwd=REPO, env=stack.env, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.all  # slow
def test_a_pickle_that_was_put_into_the_state_runs_in_no_command_of_ops(stack, ledger, tmp_path):
    assert stack.up().rc == 0
    assert ops(stack, "preview", "--expect-no-changes")[0] == 0
    file = stack.folder / "state" / ".pulumi" / "stacks" / "vast-reranker" / f"{stack.name}.json"
    before, proof = file.read_text(), tmp_path / "ran"
    state = json.loads(before)
    for one in state["checkpoint"]["latest"]["resources"]:
        if one["type"].endswith(":Instance"):
            one["outputs"]["__provider"] = base64.b64encode(pickle.dumps(Touch(proof))).decode()
    file.write_text(json.dumps(state))
    for verb in (["preview"], ["deploy"], ["destroy", "--yes"]):
        rc, said = ops(stack, *verb)
        assert (rc, "::reranker: its __provider" in said["error"]) == (5, True), said
    assert not proof.exists()
    stack.preview()
    assert proof.exists()  # what plain pulumi does with it
    file.write_text(before)
    assert ops(stack, "destroy", "--yes")[0] == 0
    assert ledger.billed() == set()
