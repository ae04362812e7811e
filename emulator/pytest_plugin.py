"""pytest fixtures: a local Vast.ai for tests. pytest loads this plugin if the package is installed.

Override `vastai_emulator_options` to change the arguments of EmulatorServer (runtime, seed, pacing).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from emulator.client import ControlClient
from emulator.server import EmulatorServer


@pytest.fixture(scope="session")
def vastai_emulator_options() -> dict[str, Any]:
    """Arguments of EmulatorServer."""
    return {"runtime": "none"}


@pytest.fixture(scope="session")
def vastai_emulator_server(vastai_emulator_options: dict[str, Any]) -> Iterator[EmulatorServer]:
    """An emulator for all tests of a run."""
    with EmulatorServer(**vastai_emulator_options) as server:
        yield server


@pytest.fixture
def vastai_emulator(vastai_emulator_server: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> ControlClient:
    """A client of the emulator, reset to its initial state. Sets VAST_URL and VAST_API_KEY during the test."""
    control = vastai_emulator_server.control
    control.reset()
    monkeypatch.setenv("VAST_URL", control.url)
    monkeypatch.setenv("VAST_API_KEY", vastai_emulator_server.key)
    return control
