"""The launch: commands that a shell really runs, flags, limits, and secrets that stay out of sight."""

import json
import os
import re
import shlex
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import ConfigError
from components.vast.identity import Authority
from components.vllm.catalog import Model, load_catalog
from components.vllm.launch import (
    COMMAND_LIMIT_CHARS,
    ENV_VALUE_LIMIT_CHARS,
    KEY_ENV,
    SPEC_FAULT_LOGS,
    Launch,
    dtype_for,
    plan_launch,
)
from emulator.runtime import free_port

CATALOG = load_catalog()
IMAGE = CATALOG.default_image
BGE = CATALOG.model("BAAI/bge-reranker-base")
QWEN3 = CATALOG.model("Qwen/Qwen3-Reranker-0.6B")
KEY = "k3y" * 20
# A `vllm` that writes down what it was started with, and shows the chat template it was given.
RECORDER = """#!/bin/sh
printf '%s\\n' "$#" "$@" >"$RECORD"
env >"$RECORD.env"
while [ $# -gt 0 ]; do [ "$1" = --chat-template ] && cp "$2" "$RECORD.template"; shift; done
"""


def run(launch: Launch, folder: Path, more: dict[str, str] | None = None) -> list[str]:
    """Run a launch as a container would, with a recorder for `vllm`; return the arguments that it got."""
    (folder / "bin").mkdir()
    (folder / "tmp dir").mkdir()
    recorder = folder / "bin" / "vllm"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    env = {
        **launch.container_env,
        **(more or {}),
        "PATH": f"{recorder.parent}:{os.environ['PATH']}",
        "TMPDIR": f"{folder}/tmp dir",
        "RECORD": f"{folder}/record",
    }
    assert launch.onstart == "bash"
    subprocess.run([launch.onstart, *launch.args], env=env, check=True, capture_output=True)
    count, *given = (folder / "record").read_text().split("\n")
    assert given.pop() == ""
    assert len(given) == int(count), "an argument was torn apart"
    return given


def test_script_becomes_vllm_serve_with_the_models_flags(tmp_path: Path) -> None:
    launch = plan_launch(BGE, IMAGE, port=8123, api_key=KEY)
    expected = "serve BAAI/bge-reranker-base --host 0.0.0.0 --port 8123 --max-model-len 512 --dtype half"
    assert run(launch, tmp_path) == shlex.split(expected)
    assert launch.ports == ("8123:8123",)
    assert launch.image == IMAGE.ref


def test_script_hands_over_overrides_as_json_and_the_chat_template_byte_for_byte(tmp_path: Path) -> None:
    given = run(plan_launch(QWEN3, IMAGE, api_key=KEY), tmp_path)
    assert json.loads(given[given.index("--hf-overrides") + 1]) == QWEN3.hf_overrides
    assert given[given.index("--runner") + 1] == "pooling"
    assert (tmp_path / "record.template").read_text() == QWEN3.chat_template
    assert given[given.index("--chat-template") + 1].startswith(f"{tmp_path}/tmp dir/")


def test_extra_args_come_last_so_that_they_win_and_survive_the_shell(tmp_path: Path) -> None:
    extra = ("--max-num-seqs", "256", "--tokenizer", 'it\'s a "$HOME" `id` \\ test')
    assert run(plan_launch(BGE, IMAGE, api_key=KEY, extra_args=extra), tmp_path)[-4:] == list(extra)


def test_plain_form_is_the_guides_without_a_script() -> None:
    launch = plan_launch(BGE, IMAGE, api_key=KEY, form="plain")
    assert launch.onstart is None
    assert launch.args[:2] == ("--model", "BAAI/bge-reranker-base")
    assert plan_launch(QWEN3, IMAGE, api_key=KEY, form="plain").args[-1] == QWEN3.chat_template


@pytest.mark.parametrize("form", ["script", "plain"])
@pytest.mark.parametrize("name", sorted(CATALOG.models))
def test_secrets_are_in_the_environment_only_and_never_shown(name: str, form: str) -> None:
    launch = plan_launch(CATALOG.model(name), IMAGE, api_key=KEY, form=form)  # type: ignore[arg-type]
    assert launch.env == {KEY_ENV: KEY}
    for shown in (repr(launch), str(launch), " ".join(launch.args)):
        assert KEY not in shown


def test_without_secrets_the_environment_is_empty() -> None:
    assert plan_launch(BGE, IMAGE, api_key=None).env == {}


def test_key_in_extra_args_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match="give the key as config api_key") as caught:
        plan_launch(BGE, IMAGE, api_key=None, extra_args=[f"--api-key={KEY}"])
    assert KEY not in str(caught.value)


def test_command_of_exactly_the_limit_passes_and_one_more_character_names_both_sizes() -> None:
    used = sum(map(len, plan_launch(BGE, IMAGE, api_key=KEY).args)) + len("bash")
    room = COMMAND_LIMIT_CHARS - used - len(" --x ")
    assert plan_launch(BGE, IMAGE, api_key=KEY, extra_args=["--x", "a" * room])
    with pytest.raises(ConfigError, match=r"the command is 4097 characters, 1 more than the 4096"):
        plan_launch(BGE, IMAGE, api_key=KEY, extra_args=["--x", "a" * (room + 1)])


def test_environment_value_that_vast_would_cut_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match=f"{KEY_ENV} is 257 characters; Vast.ai takes 256") as caught:
        plan_launch(BGE, IMAGE, api_key="z" * 257)
    assert "zzz" not in str(caught.value)


def test_every_model_leaves_half_of_the_command_limit_free() -> None:
    for model in CATALOG.models.values():
        launch = plan_launch(model, IMAGE, api_key=KEY, guard=True, tls=True)
        assert sum(map(len, launch.args)) < COMMAND_LIMIT_CHARS / 2, model.name


@pytest.mark.parametrize(("model", "dtype"), [(BGE, "half"), (QWEN3, "auto")])
def test_the_dtype_of_a_model_runs_on_every_gpu(model: Model, dtype: str) -> None:
    assert dtype_for(model) == dtype


def test_dtype_from_config_replaces_the_models_own() -> None:
    args = plan_launch(BGE, IMAGE, api_key=KEY, dtype="float32", form="plain").args
    assert args[args.index("--dtype") + 1] == "float32"
    assert "half" not in args


def test_files_and_identity_ride_in_the_environment_and_leave_it_before_the_server_starts(tmp_path: Path) -> None:
    identity = Authority.make("test").issue("127.0.1.9")
    launch = plan_launch(QWEN3, IMAGE, port=free_port("127.0.0.1"), api_key=KEY, guard=True, tls=True)
    given = run(launch, tmp_path, identity.env())
    files = Path(given[given.index("--uds") + 1]).parent
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files / "cert.pem", files / "key.pem")
    assert (files / "key.pem").stat().st_mode & 0o077 == 0
    assert not [flag for flag in given if flag.startswith(("--ssl", "--middleware", "--host", "--port", "--api-key"))]
    left = (tmp_path / "record.env").read_text()
    assert not [secret for secret in (identity.secret, KEY, "FILES_", "TLS_", "GUARD") if secret in left]
    assert all(len(value) <= ENV_VALUE_LIMIT_CHARS for value in (launch.container_env | identity.env()).values())


def test_without_a_guard_vllm_itself_speaks_tls(tmp_path: Path) -> None:
    identity = Authority.make("test").issue("127.0.1.9")
    given = run(plan_launch(BGE, IMAGE, api_key=KEY, tls=True), tmp_path, identity.env())
    certificate, key = given[given.index("--ssl-certfile") + 1], given[given.index("--ssl-keyfile") + 1]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    assert identity.secret not in (tmp_path / "record.env").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "vllm: error: unrecognized arguments: --tsk score",
        "api_server.py: error: argument --dtype: invalid choice: 'hlf' (choose from 'auto')",
        "ValueError: User-specified max_model_len (9999) is greater than the derived max_model_len (x=514)",
        "OSError: BAAI/nope is not a local folder and is not a valid model identifier listed on the hub",
        "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.",
    ],
)
def test_log_lines_of_a_wrong_command_are_recognised(line: str) -> None:
    assert any(re.search(pattern, line, re.MULTILINE) for pattern in SPEC_FAULT_LOGS)


@pytest.mark.parametrize(
    "line", ["RuntimeError: CUDA error: no kernel image is available", "torch.OutOfMemoryError: CUDA out of memory"]
)
def test_log_lines_of_a_bad_machine_are_not_blamed_on_the_command(line: str) -> None:
    assert not any(re.search(pattern, line, re.MULTILINE) for pattern in SPEC_FAULT_LOGS)


def test_launch_with_another_image_changes_only_the_image() -> None:
    other = CATALOG.image("vllm/vllm-openai:v0.32.0")
    one, two = (plan_launch(BGE, image, api_key=KEY) for image in (IMAGE, other))
    assert replace(one, image=other.ref) == two


def test_a_model_has_its_own_name_first_and_its_aliases_beside_it(tmp_path: Path) -> None:
    given = run(plan_launch(BGE, IMAGE, api_key=KEY, aliases=("rerank-v3.5", "x")), tmp_path)
    assert given[-4:] == ["--served-model-name", BGE.name, "rerank-v3.5", "x"]
