"""Clients of others against real vLLM: the tests of tests/client/test_applications.py, once more."""

from types import SimpleNamespace

import pytest

from harness.stack import MODEL
from tests.client.test_applications import (  # noqa: F401
    node_modules,
    places,
    python,
    test_a_python_client_ranks,
    test_litellms_providers_rank,
    test_npm_clients_rank,
)

pytestmark = [pytest.mark.engine, pytest.mark.vllm, pytest.mark.all]


@pytest.fixture(scope="module")
def shared_server(deployment):
    ca = deployment.ca_file.read_text()
    return SimpleNamespace(url=deployment.url, key=deployment.key, ca=ca, ca_file=deployment.ca_file, model=MODEL)
