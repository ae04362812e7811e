"""A container runs the code of the repository, and has room for the user's variables."""

import dis
import os
import subprocess
import sys
import types

import pytest

from components.container_files import GUARD, GUARD_FOLDER, TEMPLATE_FILE, UNPACK, digests, packed_env
from components.errors import ConfigError
from components.vast.identity import CHUNK_CHARS, Authority, server_name
from components.vast.label import new_nonce
from components.vllm.catalog import load_catalog
from components.vllm.launch import USER_ENV_LIMIT_CHARS, plan_launch
from emulator.rental import ENV_LIMIT

QWEN3 = "Qwen/Qwen3-Reranker-0.6B"
CATALOG = load_catalog()


def instructions(code):
    """What Python runs of a module, without what depends on line numbers."""
    names = [step.opname for step in dis.get_instructions(code) if step.opname not in {"NOP", "EXTENDED_ARG"}]
    inner = [instructions(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return names, code.co_name, code.co_names, code.co_varnames, inner


def module(path):
    return instructions(compile(path.read_text(), path.name, "exec", optimize=2))


def test_a_container_unpacks_the_repositorys_code_without_comments_and_the_very_template(tmp_path):
    env = packed_env(digests([GUARD, QWEN3]))
    assert all(len(value) <= CHUNK_CHARS for value in env.values())
    assert list(env) == sorted(env)  # the container joins them in this order
    command = [sys.executable, "-c", UNPACK]
    subprocess.run(command, env={**os.environ, **env, "files": str(tmp_path)}, check=True, timeout=30)
    modules = {path.name: module(path) for path in GUARD_FOLDER.glob("*.py")}
    unpacked = list((tmp_path / GUARD).iterdir())
    assert {path.name: module(path) for path in unpacked} == modules
    assert "__main__.py" in modules
    for path in unpacked:
        lines, own = path.read_text().splitlines(), (GUARD_FOLDER / path.name).read_text().splitlines()
        assert not [line for line in lines if line.lstrip().startswith("#")]
        changed = {line.strip() for line, original in zip(lines, own, strict=True) if line != original}
        assert changed <= {"", '""'}  # a traceback's line numbers are the repository's
    template = CATALOG.model(QWEN3).chat_template
    assert (tmp_path / TEMPLATE_FILE).read_text().rstrip("\n") == template.rstrip("\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([TEMPLATE_FILE, GUARD])


@pytest.mark.parametrize("name", sorted(CATALOG.models))
def test_beside_the_stacks_own_variables_there_is_room_for_the_users(name):
    """Vast.ai limits names and values of a container's environment together."""
    authority = Authority.make("a-project/a-stack", ["10.0.0.0/8"])
    identity = authority.issue("255.255.255.255", server_name(new_nonce()))
    launch = plan_launch(
        CATALOG.model(name),
        CATALOG.default_image,
        api_key="k" * 64,
        guard=True,
        guard_options={"a": "x" * 240},
        tls=True,
    )
    own = {**launch.container_env, **identity.env(), **{f"-p {mapping}": "1" for mapping in launch.ports}}
    size = sum(len(name) + len(value) for name, value in own.items())
    assert size + USER_ENV_LIMIT_CHARS <= ENV_LIMIT


def test_a_source_that_is_no_longer_what_the_state_says_is_not_packed():
    with pytest.raises(ConfigError, match=r"guard was edited while this `up` ran: run it again"):
        packed_env({GUARD: "0" * 12})


def test_a_state_keeps_digests_of_the_files_and_not_the_files():
    found = digests([GUARD, QWEN3])
    assert list(found) == [GUARD, QWEN3]
    assert {len(digest) for digest in found.values()} == {12}
    assert len(set(found.values())) == 2
