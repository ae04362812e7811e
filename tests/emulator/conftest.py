"""Markets for the tests of a module: one whose containers are bookkeeping, one whose containers are processes."""

import pytest

from emulator.server import EmulatorServer
from tests.emulator.client import Client


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with EmulatorServer(runtime="none", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield Client(server.url, folder=server.folder)


@pytest.fixture
def vast(shared):
    """A market whose containers are bookkeeping, as on the first day."""
    shared.control("reset")
    return shared


@pytest.fixture(scope="module")
def shared_stub(tmp_path_factory):
    with EmulatorServer(runtime="stub", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield Client(server.url, folder=server.folder)


@pytest.fixture
def stub(shared_stub):
    """A market whose containers are processes that speak as vLLM does."""
    yield shared_stub
    shared_stub.control("reset")
