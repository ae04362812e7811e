"""What the shim makes of a launch's arguments before the server sees them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emulator import vllm_shim
from emulator.vllm_shim import DROPPED, split

CLI = str(Path(vllm_shim.__file__).with_name("vllm_cli.py"))
SHIM = {
    "python": "py",
    "ip": "127.0.1.9",
    "ports": {"8000": 40123},
    "models": {"a/model": "/weights"},
    "fault_file": "/f",
}


def command(argv, shim):
    return vllm_shim.command(argv, shim)[0]


@pytest.mark.parametrize("argv", [["serve", "a/model"], ["--model", "a/model"], ["serve", "--model=a/model"]])
def test_the_shim_serves_local_weights_under_the_name_asked_for(argv):
    found = command([*argv, "--port", "8000"], SHIM | {"runtime": "vllm"})
    assert found[:5] == ["py", "-P", CLI, "serve", "/weights"]
    assert " ".join(found).endswith("--host 127.0.1.9 --port 40123 --served-model-name a/model --dtype float32")


def test_the_shim_drops_what_a_cpu_cannot_take_and_says_why_and_keeps_the_rest():
    given = "--gpu-memory-utilization 0.9 --tensor-parallel-size 2 --dtype half --max-model-len 512 --middleware g.G"
    given += " --api-server-count 2 --seed -1"
    found, changes = vllm_shim.command(["serve", "b/model", *given.split()], SHIM | {"runtime": "vllm"})
    text = " ".join(found[5:])
    kept = "--max-model-len 512 --middleware g.G --api-server-count 2 --seed -1"
    assert text == f"{kept} --host 127.0.1.9 --port 40123 --dtype float32"
    for flag in ("--gpu-memory-utilization", "--tensor-parallel-size"):
        assert f"drops {flag}: {DROPPED[flag]}" in changes
    assert any(line.startswith("--dtype half is float32") for line in changes)


def test_the_shim_sends_an_unmapped_port_where_nobody_finds_it():
    found = command(["serve", "m", "--port", "9000"], SHIM | {"runtime": "stub"})
    assert " ".join(found).endswith("--host 127.0.0.1 --port 0")


@pytest.mark.parametrize(
    ("argv", "model", "flags"),
    [
        (["serve", "m", "--a", "1", "--b"], "m", [("--a", ["1"]), ("--b", [])]),
        (["--model", "m", "--a=1"], "m", [("--a", ["1"])]),
        (["serve", "--port", "8000", "--model", "m"], "m", [("--port", ["8000"])]),
        (["serve", "m", "--max_model_len", "-1"], "m", [("--max-model-len", ["-1"])]),
        (["serve", "m", "--served-model-name", "a", "b"], "m", [("--served-model-name", ["a", "b"])]),
    ],
)
def test_the_shim_reads_model_and_flags_in_every_spelling(argv, model, flags):
    assert split(argv) == (model, flags)


@pytest.mark.parametrize(
    ("given", "made"),
    [("half", "float32"), ("float16", "float32"), ("auto", "float32"), ("bfloat16", "float32"), ("float32", "float32")],
)
def test_the_shim_makes_half_precision_whole_for_a_cpu_and_leaves_it_to_the_stub(given, made):
    argv = ["serve", "m", "--dtype", given]
    assert command(argv, SHIM | {"runtime": "vllm"})[-2:] == ["--dtype", made]
    assert f"--dtype {given}" in " ".join(command(argv, SHIM | {"runtime": "stub"}))


def test_the_shim_keeps_the_name_that_a_launch_gives_to_local_weights():
    found = command(["serve", "a/model", "--served-model-name", "mine"], SHIM | {"runtime": "vllm"})
    assert " ".join(found).count("--served-model-name mine") == 1
    assert "a/model" not in found


def test_the_shim_starts_the_stub_with_the_name_and_the_folder():
    found = command(["serve", "a/model"], SHIM | {"runtime": "stub"})
    assert found[:6] == ["py", "-m", "emulator.stub", "a/model", "--root", "/weights"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_shim_keeps_a_server_that_listens_inside_off_the_mapped_port(host):
    found = command(["serve", "m", "--port", "8000", "--host", host], SHIM | {"runtime": "stub"})
    assert " ".join(found).endswith("--host 127.0.0.1 --port 0")


# ---- as a program ----------------------------------------------------------------------------------------------------


@pytest.fixture
def vllm(tmp_path):
    """Runs the shim, with an interpreter that only tells what it was given."""
    interpreter = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\necho "$@"\nenv\n')
    interpreter.chmod(0o755)

    def run(*argv, **settings):
        file = tmp_path / "shim.json"
        file.write_text(json.dumps(SHIM | {"python": str(interpreter), "source": "/project"} | settings))
        program = [sys.executable, "-I", vllm_shim.__file__, file, *argv]
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/mine"}
        return subprocess.run(program, env=env, capture_output=True, text=True, timeout=20, check=False)

    return run


@pytest.mark.parametrize("offline", [True, False])
def test_the_shim_becomes_the_server_and_tells_it_whether_there_is_a_hub(vllm, offline):
    told = vllm("serve", "a/model", runtime="vllm", offline=offline).stdout.splitlines()
    assert told[0].startswith(f"-P {CLI} serve /weights")
    assert ("HF_HUB_OFFLINE=1" in told) == offline
    assert "PYTHONPATH=/mine" in told


def test_the_shim_lets_the_stub_find_the_project_after_what_the_container_brings(vllm):
    told = vllm("--model", "a/model", runtime="stub", offline=True).stdout.splitlines()
    assert told[0].startswith("-m emulator.stub a/model")
    assert "PYTHONPATH=/mine:/project" in told


def test_the_shim_says_in_the_log_what_it_changes(vllm):
    said = vllm("serve", "a/model", "-tp", "2", runtime="vllm", offline=True).stderr.splitlines()
    assert "emulator: drops -tp: a CPU is a single device" in said
    assert "emulator: listens at 127.0.1.9:40123, where the container's port is mapped" in said
    assert all(one.startswith("emulator: ") for one in said)


def test_the_shim_knows_only_serve(vllm):
    done = vllm("bench", "throughput", runtime="stub", offline=True)
    assert done.returncode == 1
    assert "only `serve` is supported" in done.stderr
