"""One guarded TLS server for the tests of a module; each test starts without faults and recorded requests."""

import pytest

from reranker import Reranker
from tests.client.asking import QUICK
from tests.client.guarded import KEY, guarded_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    with guarded_server(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture
def server(shared_server):
    faulty = shared_server.faulty
    faulty.faults, faulty.bodies, faulty.hold, faulty.most_in_flight = [], [], None, 0
    return shared_server


@pytest.fixture
def reranker(server):
    with Reranker.from_url(server.url, KEY, server.ca, patience=QUICK) as client:
        yield client
