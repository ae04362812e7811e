"""Markets for the tests of a module: one whose containers are bookkeeping, one whose containers are processes."""

import os
import signal

import pytest

from emulator.server import EmulatorServer
from tests.emulator.client import Client
from tests.emulator.launched import Launched, processes_in
from tests.emulator.official_cli import Cli


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


@pytest.fixture
def launch(tmp_path):
    """Starts emulators over one state folder, and ends what is left of them."""
    launched = []

    def start(*flags):
        launched.append(Launched(tmp_path / "state", *flags))
        return launched[-1]

    yield start
    for one in launched:
        if one.process.poll() is None:
            one.end()
    for pid in processes_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def vastai(stub, home):
    """The official CLI on a market whose containers are processes."""
    return Cli(stub.url, home)
