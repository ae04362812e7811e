"""Emulators for the tests of a module: one whose containers are only records, one whose containers are processes."""

import os
import signal

import pytest

from emulator.server import EmulatorServer
from tests.emulator.client import Client
from tests.emulator.launched import EmulatorProcess, pids_with_home
from tests.emulator.official_cli import Cli


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with EmulatorServer(runtime="none", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield Client(server.url, folder=server.folder)


@pytest.fixture
def vast(shared):
    """An emulator whose containers are only records, reset before each test."""
    shared.control("reset")
    return shared


@pytest.fixture(scope="module")
def shared_stub(tmp_path_factory):
    with EmulatorServer(runtime="stub", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield Client(server.url, folder=server.folder)


@pytest.fixture
def stub(shared_stub):
    """An emulator whose containers are processes with vLLM's HTTP API."""
    yield shared_stub
    shared_stub.control("reset")


@pytest.fixture
def launch(tmp_path):
    """Start emulators with the same state folder; kill their processes after the test."""
    emulators = []

    def start(*flags):
        emulators.append(EmulatorProcess(tmp_path / "state", *flags))
        return emulators[-1]

    yield start
    for emulator in emulators:
        if emulator.process.poll() is None:
            emulator.end()
    for pid in pids_with_home(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def vastai(stub, home):
    """The official CLI with an emulator whose containers are processes."""
    return Cli(stub.url, home)
