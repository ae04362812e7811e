"""pytest fixtures: a local Vast.ai for tests of what rents machines. pytest loads it where the package is installed.

Override `vastai_emulator_options` to have another runtime, seed or pacing: it returns arguments of EmulatorServer.
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
    """One emulator for all tests of a run."""
    with EmulatorServer(**vastai_emulator_options) as server:
        yield server


@pytest.fixture
def vastai_emulator(vastai_emulator_server: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> ControlClient:
    """The emulator as on its first day, for the length of a test where VAST_URL and VAST_API_KEY say."""
    control = vastai_emulator_server.control
    control.reset()
    monkeypatch.setenv("VAST_URL", control.url)
    monkeypatch.setenv("VAST_API_KEY", vastai_emulator_server.key)
    return control
