"""The real engine, the real program, the real plugin process, against an emulator of the test's own."""

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.run import LEDGER_S, LEDGER_USD, compare
from components.stack_ledger import open_ledger
from components.vast.ledger import fold
from emulator.server import EmulatorServer
from harness.stack import MODEL, REPO, EngineStack
from tests.engine.conftest import Ledger
from tests.engine.fleet import Ops

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A stack that serves, and its market; a test that uses it leaves it in sync."""
    folder = tmp_path_factory.mktemp("running")
    with EmulatorServer(runtime="stub", time="instant", state_dir=folder / "emulator") as market:
        stack = EngineStack(folder / "stack", market.url).init()
        done = stack.up()
        assert done.rc == 0, done.text
        yield Running(stack, market, Ledger(market.control))


@dataclass
class Running:
    """What runs, where, and what is billed there."""

    stack: EngineStack
    market: EmulatorServer
    ledger: Ledger


@pytest.fixture
def up(stack):
    """Deploy the stack of this test alone."""
    done = stack.up()
    assert done.rc == 0, done.text
    return stack


def official_cli(market, home, *args):
    vastai = sys.executable.rpartition("/")[0] + "/vastai"
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "PATH": "/usr/bin:/bin", "VASTAI_NO_UPDATE_CHECK": "1"}
    command = [vastai, "--url", market.url, "--api-key", "emulator-key", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)


def test_a_preview_of_a_new_stack_names_the_offer_searches_once_and_rents_nothing(stack, market, ledger):
    done = stack.preview()
    assert done.rc == 0, done.text
    assert market.control.requests() == {
        "POST /api/v0/bundles/": 1,
        "GET /api/v1/instances/": 1,  # whether a lost state has left something
        "GET /api/v0/users/current/": 1,  # whether the credit lasts, and the key may ask
    }
    line = next(line for line in done.text.splitlines() if "first choice: offer" in line)
    for words in (" on machine ", "/h, pull once $", "ready in about"):
        assert words in line
    assert ledger.contracts() == []


def test_up_ends_with_a_validated_server_and_the_outputs_that_people_need(running):
    out = running.stack.outputs()
    assert running.ledger.billed() == {out["instance_id"]} == running.stack.instances()
    assert out["url"] == f"https://{out['ip']}:{out['port']}"
    assert out["model"] == MODEL
    assert len(out["api_key"]) == 64
    assert out["machine_id"] > 0
    assert out["gpu"]
    cost = out["hourly_cost_usd"]
    assert cost["total"] == pytest.approx(cost["gpu"] + cost["disk"], abs=1e-4)
    assert out["monthly_cost_usd"] == pytest.approx(cost["total"] * 730, abs=0.02)
    assert set(out["bandwidth_cost_usd_gb"]) == {"down", "up"}
    assert out["pull_cost_usd"] == out["offer"]["pull_cost_usd"]
    assert out["validation"]["passed"] is True
    assert out["api_key"] not in out["curl"]


def test_a_healthy_stack_is_in_sync_and_a_second_up_changes_nothing(running):
    assert running.stack.drift().rc == 0
    before = running.ledger.contracts()
    done = running.stack.up()
    assert done.rc == 0
    assert "unchanged" in done
    assert [one["id"] for one in running.ledger.contracts()] == [one["id"] for one in before]


def test_the_curl_output_works_as_printed_and_shows_the_key_on_no_command_line(running, tmp_path):
    for name in ("curl", "sed", "pulumi"):
        real = shutil.which(name, path=running.stack.env["PATH"])
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0" "$@" >>{tmp_path}/seen\nexec {real} "$@"\n')
        (tmp_path / name).chmod(0o755)
    out = running.stack.outputs()
    done = subprocess.run(
        ["bash", "-c", out["curl"]],
        cwd=running.stack.project,
        env=running.stack.env | {"PATH": f"{tmp_path}:{running.stack.env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "relevance_score" in done.stdout
    seen = (tmp_path / "seen").read_text()
    assert "/curl -s --cacert" in seen
    assert out["api_key"] not in seen


def test_an_instance_destroyed_by_the_official_cli_is_drift_and_up_heals_it(running, tmp_path):
    first = running.stack.outputs()["instance_id"]
    official_cli(running.market, tmp_path, "destroy", "instance", str(first), "-y")

    seen = running.stack.drift()
    assert seen.rc == 7, seen.text
    assert f"instance {first} is gone: Vast.ai no longer lists it" in seen
    assert "first choice: offer" in seen

    assert running.stack.up().rc == 0
    second = running.stack.outputs()["instance_id"]
    assert second != first
    assert running.ledger.billed() == {second}
    assert running.stack.drift().rc == 0


def test_a_killed_server_process_is_drift_and_up_replaces_the_instance(running):
    first = running.stack.outputs()["instance_id"]
    running.ledger.control(f"instances/{first}/kill")

    seen = running.stack.drift()
    assert seen.rc == 7, seen.text
    assert "will be replaced: exited" in seen

    done = running.stack.up()
    assert done.rc == 0, done.text
    second = running.stack.outputs()["instance_id"]
    assert second != first
    assert running.ledger.billed() == {second}
    assert running.stack.drift().rc == 0


def test_an_api_that_is_down_is_an_error_and_never_a_plan_to_create(up, market):
    market.stop()
    seen = up.drift()
    assert seen.rc not in (0, 7), seen.text
    assert "cannot reach" in seen
    assert market.url in seen
    assert "to create" not in seen
    assert "+ create" not in seen


def container_processes(instance_id):
    """Pids of processes that were started as this instance's container."""
    mark = f"CONTAINER_ID={instance_id}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def test_destroy_leaves_nothing_billed_and_no_process_and_the_rent_in_the_ledger(up, ledger):
    instance_id = up.outputs()["instance_id"]
    assert container_processes(instance_id)
    done = up.destroy()
    assert done.rc == 0, done.text
    assert ledger.billed() == set()
    assert container_processes(instance_id) == []
    written = open_ledger("vast-reranker/test", up.env, up.project).events()
    assert [(one.kind, one.reason) for one in written] == [
        ("intent", ""), ("rent", ""), ("serving", ""), ("end", "destroyed"),
    ]  # fmt: skip
    [row] = ledger.contracts()
    off = compare(fold(written)[instance_id], row)
    assert off.seconds <= LEDGER_S
    assert off.usd <= LEDGER_USD


def test_every_bad_config_value_is_reported_at_once_and_nothing_is_rented(stack, ledger):
    stack.write_config(
        model="BAAI/bge-reranker-bse",
        image="vllm/vllm-openai:latest",
        query="num_gpus=1 gpu_ramm>=16",
        max_dph_usd="-1",
        prefer="nicest",
        disk_gb=4,
        mdoel="x",
    )
    done = stack.up()
    assert done.rc == 1
    for words in (
        "model: ",
        "BAAI/bge-reranker-base",
        "image: ",
        "latest",
        "query: ",
        "position 12",
        "max_dph_usd: is '-1'",
        "prefer: is 'nicest'; accepted: cheapest, fastest, balanced",
        "disk_gb: ",
        "mdoel: is not a config key; did you mean model?",
    ):
        assert words in done, words
    assert "Traceback" not in done
    assert "unhandled error" not in done
    assert ledger.contracts() == []


def test_a_disk_below_the_images_need_is_refused_before_renting(stack, ledger):
    stack.write_config(disk_gb=10)
    done = stack.up()
    assert done.rc == 1
    assert "disk_gb: is 10, but" in done
    assert ledger.contracts() == []


def test_a_query_that_nothing_satisfies_says_what_each_condition_removes(stack):
    stack.write_config(max_dph_usd="0.001")
    done = stack.preview()
    assert done.rc != 0
    assert "no offer fits: 0 of " in done
    assert "dph_total<=0.001 (max_dph_usd) alone removes" in done
    assert "nearest miss" in done


def test_a_wrong_key_is_named_as_such(stack):
    stack.env["VAST_API_KEY"] = "not-the-key"
    done = stack.preview()
    assert done.rc != 0
    assert "Vast.ai refuses the key" in done
    assert "not-the-key" not in done


def test_a_missing_key_says_how_to_set_it(stack):
    del stack.env["VAST_API_KEY"]
    done = stack.preview()
    assert done.rc != 0
    assert "no Vast.ai key; set it with" in done


def test_the_state_and_the_output_hold_no_key_in_clear(stack):
    done = stack.up("--diff")
    assert done.rc == 0, done.text
    out = stack.outputs()
    for place in (done.text, stack.export(), stack.preview("--diff").text):
        assert out["api_key"] not in place
        assert "emulator-key" not in place


def test_a_renamed_project_deploys_with_the_same_config(stack):
    manifest = stack.project / "Pulumi.yaml"
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text.replace("name: vast-reranker\n", "name: anything\n"))
    stack.write_config()  # `pulumi stack init` had put the old name before each key
    done = stack.init().up()
    assert done.rc == 0, done.text
    assert stack.outputs()["url"]
    done = stack.destroy()
    assert done.rc == 0, done.text


@pytest.mark.all
def test_a_proxy_of_the_environment_is_not_asked_for_what_is_on_this_machine(running, monkeypatch):
    nowhere = {name: "http://127.0.0.1:1" for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")}
    for name, value in nowhere.items():
        monkeypatch.setitem(running.stack.env, name, value)
    told = Ops(running.stack, "drift").end()
    assert told.rc == 0, told.err
    shell = ". scripts/env.sh real 2>/dev/null; echo $NO_PROXY $no_proxy"
    said = subprocess.check_output(["bash", "-c", shell], cwd=REPO, env={**os.environ, **nowhere}, text=True)
    for name, value in zip(("NO_PROXY", "no_proxy"), said.split(), strict=True):
        monkeypatch.setitem(running.stack.env, name, value)
    seen = running.stack.preview()
    assert seen.rc == 0, seen.text


@pytest.mark.all
@pytest.mark.parametrize("image", ["nginx:1.27", "vllm/vllm-openai:v9.9.9"])
def test_an_image_of_which_nothing_is_known_is_said_so_before_it_is_rented(stack, image):
    stack.write_config(image=image, extra_args=[])
    assert f"warning: image {image} is not in the catalog" in stack.preview()


@pytest.mark.all
def test_a_renamed_stack_keeps_its_authority_its_server_and_its_key(stack, ledger):
    assert stack.up().rc == 0
    before = stack.outputs()
    stack.ok("stack", "rename", "renamed")
    stack.name = "renamed"
    done = stack.up()
    assert done.rc == 0, done.text
    after = stack.outputs()
    kept = ("instance_id", "url", "api_key", "ca_certificate")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert len(ledger.contracts()) == 1
    assert stack.drift().rc == 0
