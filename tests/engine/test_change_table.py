"""Each kind of change through the real engine: what replaces, what updates in place, what does nothing."""

import contextlib
import re
import threading

import pytest
import requests

from components.vast import change
from emulator.server import EmulatorServer
from harness.certificates import ca_file
from harness.stack import EMULATOR_KEY, MODEL, EngineStack, resources_of
from tests.engine.conftest import Ledger

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("change")
    with EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market:
        stack = EngineStack(folder / "stack", market.url).init()
        done = stack.up()
        assert done.rc == 0, done.text
        yield stack, Ledger(market.control), market


REPLACING = {
    "image": {"image": "vllm/vllm-openai:v0.32.0"},
    "args": {"extra_args": ["--max-num-seqs", "64"]},
    "disk_gb": {"disk_gb": 44},
    "ca_certificate": {"tls": False},
    "onstart": {"form": "plain", "guard": False, "tls": False},
    "env": {"hub_token": "SECRET:hf_abcdefghijkl"},
    "search": {"query": "gpu_name=RTX_3090 num_gpus=1"},
}
UPDATING = {
    "watch": {"timeouts.probe_window_s": 2},
    "deadlines": {"timeouts.serving_s": 899},
    "max_tries": {"max_tries": 4},
    "poll_s": {"timeouts.poll_s": "0.2"},
    "hedge": {"hedge": 2},
    "replace": {"replace": "in_place"},
    "money": {"max_hourly_usd": "9"},
    "policy": {"LIMITS": {"max_disk_gb": 100}},
    "search": {"query": "num_gpus=1"},
}


@contextlib.contextmanager
def changed(stack, changes):
    """Write changes to the config for a block, secrets as a person would."""
    secrets = {name for name, value in changes.items() if str(value).startswith("SECRET:")}
    before = {name: stack.config.get(name) for name in changes if name not in secrets | {"LIMITS"}}
    stack.write_limits(**changes.get("LIMITS", {}))
    for name in secrets:
        stack.set_secret(name, changes[name].removeprefix("SECRET:"))
    stack.write_config({name: changes[name] for name in before})
    try:
        yield
    finally:
        stack.write_config(before)
        stack.write_limits()
        for name in secrets:
            assert stack.run("config", "rm", name).rc == 0


def at_once(table):
    """Return the changes of a whole table as one."""
    return {name: value for changes in table.values() for name, value in changes.items()}


def reason(key):
    return "the machine no longer satisfies" if key == "search" else f"{key} changed"


@pytest.mark.all
def test_all_that_updates_in_place_keeps_the_instance(scene):
    stack, ledger, _ = scene
    first = stack.outputs()["instance_id"]
    with changed(stack, at_once(UPDATING)):
        seen = stack.drift()
        assert seen.rc == 7, seen.text
        assert "will be replaced" not in seen
        done = stack.up()
        assert done.rc == 0, done.text
        assert stack.outputs()["instance_id"] == first
        assert ledger.billed() == {first}
        assert stack.drift().rc == 0
    assert stack.up().rc == 0


@pytest.mark.all
def test_what_replaces_is_told_key_by_key_and_replaces_once(scene):
    stack, ledger, _ = scene
    first = stack.outputs()["instance_id"]
    each = {key: changes for key, changes in REPLACING.items() if key != "onstart"}  # which changes args and env too
    with changed(stack, at_once(each)):
        seen = stack.drift()
        assert seen.rc == 7, seen.text
        [told] = set(re.findall(r"will be replaced: (.*)", seen.text))
        for key in each:
            assert reason(key) in told, told
        done = stack.up()
        assert done.rc == 0, done.text
        second = stack.outputs()["instance_id"]
        assert second != first
        assert ledger.billed() == {second}
        assert stack.drift().rc == 0
    assert stack.up().rc == 0


@pytest.mark.all
@pytest.mark.parametrize("key", UPDATING)
def test_a_preview_of_this_change_replaces_nothing(scene, key):
    stack, _, _ = scene
    with changed(stack, UPDATING[key]):
        seen = stack.drift()
    assert seen.rc == 7, seen.text
    assert "will be replaced" not in seen


@pytest.mark.all
@pytest.mark.parametrize("key", REPLACING)
def test_a_preview_of_this_change_replaces_for_this_reason(scene, key):
    stack, _, _ = scene
    with changed(stack, REPLACING[key]):
        seen = stack.drift()
    assert seen.rc == 7, seen.text
    assert re.search(f"will be replaced: .*{reason(key)}", seen.text), seen.text


@pytest.mark.all
def test_a_machine_that_breaks_a_new_price_cap_is_named_with_the_cap(scene):
    stack, _, _ = scene
    price = stack.outputs()["hourly_cost_usd"]["total"]
    stack.write_config(query="num_gpus=1", max_dph_usd=f"{price * 0.9:.4f}")
    seen = stack.preview()
    assert "the machine no longer satisfies: dph_total<=" in seen, seen.text
    stack.write_config(max_dph_usd=None)
    assert stack.up().rc == 0


def test_what_is_in_the_table_and_not_tested_here_cannot_be_changed_by_config():
    tested = {*REPLACING, *UPDATING}
    untested = {key for key, effect in change.TABLE.items() if effect not in ("ignore",)} - tested
    # fixed by the component, or a property of the resource that no config key reaches
    assert untested == {
        "ports",
        "image_login",
        "files",
        "label_base",
        "owner",
        "probe",
        "spec_fault_logs",
        "bid",
        "key_env",
        "stack_secret",
        "certificate_path",
    }


@pytest.mark.all
def test_in_place_destroys_before_it_rents(scene):
    stack, ledger, _ = scene
    stack.write_config(replace="in_place")
    assert stack.up().rc == 0
    stack.write_config(extra_args=["--max-num-seqs", "32"])
    assert stack.up().rc == 0
    new, old = sorted((one for one in ledger.contracts()), key=lambda one: -one["rented_at"])[:2]
    assert old["destroyed_at"] <= new["rented_at"]
    stack.write_config(replace="blue_green")
    assert stack.up().rc == 0


@pytest.mark.all  # slow
def test_blue_green_never_leaves_a_moment_without_a_server(scene):
    stack, ledger, market = scene
    stop, failures, answered = threading.Event(), [], []
    headers = {"Authorization": f"Bearer {stack.outputs()['api_key']}"}
    ca, scheme = stack.outputs()["ca_certificate"], stack.outputs()["url"].partition(":")[0]
    trust = ca_file(ca) if ca else True

    def ask():
        while not stop.is_set():
            rows = requests.get(
                f"{market.url}/api/v1/instances/", headers={"Authorization": f"Bearer {EMULATOR_KEY}"}, timeout=10
            ).json()["instances"]
            urls = [
                f"{scheme}://{row['public_ipaddr'].strip()}:{row['ports']['8000/tcp'][0]['HostPort']}"
                for row in rows
                if row["ports"]
            ]
            (answered if any(_serves(url, headers, trust) for url in urls) else failures).append(urls)

    asker = threading.Thread(target=ask)
    asker.start()
    first = stack.outputs()["instance_id"]
    stack.write_config(extra_args=["--max-num-seqs", "16"])
    done = stack.up()
    stop.set()
    asker.join()
    assert done.rc == 0, done.text
    assert stack.outputs()["instance_id"] != first
    assert len(answered) > 20
    assert failures == []
    new, old = sorted((one for one in ledger.contracts()), key=lambda one: -one["rented_at"])[:2]
    assert old["destroyed_at"] > new["rented_at"]


def _serves(url, headers, trust):
    try:
        body = {"model": MODEL, "query": "q", "documents": ["q"]}
        return requests.post(f"{url}/rerank", json=body, headers=headers, verify=trust, timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.all
def test_a_forced_replacement_rents_another_and_keeps_the_old_one_until_it_serves(scene):
    stack, ledger, _ = scene
    first = stack.outputs()["instance_id"]
    [urn] = [one["urn"] for one in resources_of(stack.deployment()) if one["type"].endswith(":Instance")]
    done = stack.up("--replace", urn)
    assert done.rc == 0, done.text
    second = stack.outputs()["instance_id"]
    assert second != first
    assert ledger.billed() == {second}
