"""What can be asserted of a running deployment: a socket, a process, real scores, no secret where none belongs."""

import contextlib
import re
from pathlib import Path

import pytest
import requests

from harness.stack import MODEL

pytestmark = [pytest.mark.engine, pytest.mark.vllm]
SERVES = re.compile(r"vllm\S* serve ")  # of a build whose own command does not start, by vllm_cli.py


def container_pids(instance_id):
    mark = f"CONTAINER_ID={instance_id}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                yield int(environ.parent.name)


def test_the_address_in_the_outputs_is_listening(deployment, host):
    out = deployment.outputs
    assert host.socket(f"tcp://{out['ip']}:{out['port']}").is_listening


def test_the_server_is_a_vllm_process_of_that_container(deployment, host):
    found = [host.process.get(pid=pid) for pid in container_pids(deployment.outputs["instance_id"])]
    assert any(SERVES.search(process.args) for process in found)


def test_no_key_is_in_the_argv_of_any_process(deployment, host):
    arguments = [process.args for process in host.process.filter()]
    assert any(SERVES.search(args) for args in arguments)
    for secret in (deployment.key, deployment.stack.env["VAST_API_KEY"]):
        assert not [args for args in arguments if secret in args]


def test_the_relevant_document_scores_above_the_irrelevant_one(deployment):
    answer = requests.post(
        f"{deployment.url}/rerank",
        json={"model": MODEL, "query": "What is deep learning?", "documents": ["I like pizza", "Deep learning is ML"]},
        headers={"Authorization": f"Bearer {deployment.key}"},
        verify=deployment.ca_file,
        timeout=60,
    ).json()
    assert [one["index"] for one in answer["results"]] == [1, 0]


def test_the_validation_report_names_the_weights_that_ran(deployment):
    report = deployment.outputs["validation"]
    assert report["passed"] is True
    assert "minilm" in report["weights"].lower()


def test_a_healthy_deployment_is_in_sync(deployment):
    seen = deployment.stack.drift()
    assert seen.rc == 0, seen.text
