"""What rides into a container is what stands in the repository."""

import os
import subprocess
import sys

import pytest

from components.container_files import GUARD, GUARD_FOLDER, TEMPLATE_FILE, UNPACK, digests, packed_env
from components.errors import ConfigError
from components.vast.identity import CHUNK_CHARS
from components.vllm.catalog import load_catalog

QWEN3 = "Qwen/Qwen3-Reranker-0.6B"


def test_a_container_unpacks_the_very_files_of_the_repository(tmp_path):
    env = packed_env(digests([GUARD, QWEN3]))
    assert all(len(value) <= CHUNK_CHARS for value in env.values())
    assert list(env) == sorted(env)  # the container joins them in this order
    command = [sys.executable, "-c", UNPACK]
    subprocess.run(command, env={**os.environ, **env, "files": str(tmp_path)}, check=True, timeout=30)
    modules = {path.name: path.read_text() for path in GUARD_FOLDER.glob("*.py")}
    assert {path.name: path.read_text() for path in (tmp_path / GUARD).iterdir()} == modules
    assert "__main__.py" in modules
    template = load_catalog().model(QWEN3).chat_template
    assert (tmp_path / TEMPLATE_FILE).read_text().rstrip("\n") == template.rstrip("\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([TEMPLATE_FILE, GUARD])


def test_a_source_that_is_no_longer_what_the_state_says_is_not_packed():
    with pytest.raises(ConfigError, match=r"guard was edited while this `up` ran: run it again"):
        packed_env({GUARD: "0" * 12})


def test_a_state_keeps_digests_of_the_files_and_not_the_files():
    found = digests([GUARD, QWEN3])
    assert list(found) == [GUARD, QWEN3]
    assert {len(digest) for digest in found.values()} == {12}
    assert len(set(found.values())) == 2
