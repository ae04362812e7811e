"""The README's commands, pasted one after the other into a shell of a fresh checkout with an empty home."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from emulator.runtime import free_port
from emulator.server import EmulatorServer
from harness.pasted import Shell, commands, section
from harness.stack import REPO

pytestmark = pytest.mark.engine
README = REPO / "README.md"
KEY = "the-key-of-an-account"  # not the emulator's usual one, which env.sh takes for a local shell's


def require_installed(venv, *sets):
    """Fail where the locks are not what is installed: setup in the copy would then change it for all."""
    for one in sets:
        lock = (REPO / "requirements" / f"{one}.lock").read_text()
        stamp = (REPO / venv).resolve() / f".installed-{one}"
        assert stamp.read_text() == f"{stamp.parent}\n{lock}", f"{one} is not installed as locked: make test"
    assert (REPO / ".venv" / ".installed-checkout").read_bytes() == (REPO / "pyproject.toml").read_bytes()
