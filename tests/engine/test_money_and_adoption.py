"""What is paid and what is taken over: credit, caps, bids, an instance made by hand, and instances nobody knows."""

import json
import re
import subprocess
import sys

import pytest
import requests

from components.stack_ledger import open_ledger
from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY, MODEL, REPO, EngineStack

pytestmark = pytest.mark.engine


@pytest.fixture
def market(tmp_path):
    with EmulatorServer(runtime="none", time="instant", state_dir=tmp_path / "emulator") as server:
        yield server


def vastai(market, home, *args):
    """Run the official CLI."""
    command = [sys.executable.rpartition("/")[0] + "/vastai", "--url", market.url, "--api-key", EMULATOR_KEY, *args]
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "PATH": "/usr/bin:/bin", "VASTAI_NO_UPDATE_CHECK": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


def orphans(market, stack, *args):
    return subprocess.run(
        [sys.executable, "-m", "ops", "orphans", "--api-url", market.url, "--min-age-min", "0", *args],
        cwd=REPO,
        env={
            "PATH": "/usr/bin:/bin",
            "VAST_API_KEY": EMULATOR_KEY,
            "PULUMI_BACKEND_URL": stack.env["PULUMI_BACKEND_URL"],
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_too_little_credit_for_the_boot_is_an_error_before_anything_is_rented(stack, ledger):
    ledger.control("credit", credit=0.02)
    done = stack.up()
    assert done.rc != 0
    assert "the credit is $0.02, but until it serves" in done
    assert ledger.contracts() == []


@pytest.mark.all
def test_little_credit_and_a_small_budget_are_a_warning_with_what_is_left(stack, ledger):
    ledger.control("credit", credit=1.0)
    stack.write_config(budget_usd_month="0.02")
    done = stack.up()
    assert done.rc == 0, done.text
    assert "warning: the month will have cost $" in done
    assert "over budget_usd_month of $0.02; the credit of $1.00 lasts for" in done


def test_a_stack_over_its_hourly_cap_is_refused_in_the_preview(stack, ledger):
    stack.write_config(max_hourly_usd="0.05")
    done = stack.preview()
    assert done.rc != 0
    assert "max_hourly_usd allows $0.05/h, but $0.0" in done
    assert ledger.contracts() == []


def test_a_bid_is_the_floor_times_the_factor_and_an_outbid_instance_is_renewed_elsewhere(stack, ledger, market):
    stack.write_config(bid="auto")
    done = stack.up()
    assert done.rc == 0, done.text
    assert "; bid $" in done
    out = stack.outputs()
    row = instance(market, out["instance_id"])
    assert row["is_bid"] is True
    assert row["dph_base"] == pytest.approx(1.25 * row["min_bid"], rel=1e-3)

    ledger.control(f"instances/{out['instance_id']}/outbid")
    seen = stack.drift()
    assert seen.rc == 7
    assert "was outbid and paused" in seen
    assert stack.up().rc == 0
    second = stack.outputs()
    assert second["machine_id"] != out["machine_id"]
    assert ledger.billed() == {second["instance_id"]}


def test_a_bid_over_what_cannot_be_outbid_costs_is_a_warning_with_both_prices(stack):
    stack.write_config(bid="auto")
    assert "on demand" not in stack.preview().text
    stack.write_config(bid=0.5)
    seen = stack.preview()
    bid, on_demand = (
        float(one) for one in re.search(r"bid costs \$(\S+)/h, .* costs \$(\S+)/h: remove", seen.text).groups()
    )
    assert 0.5 <= bid < 0.51
    stack.write_config(bid=None)
    [offered] = re.findall(r"first choice: .*?\$(\S+)/h", stack.preview().text)[:1]
    assert float(offered) == on_demand


@pytest.mark.all
def test_the_stopped_instance_that_a_bid_too_low_leaves_behind_is_destroyed(stack, ledger):
    stack.write_config(bid="0.002", max_tries=2)
    done = stack.up()
    assert done.rc != 0
    assert "bid 0.002 is below" in done
    assert len(ledger.contracts()) == 2
    assert ledger.billed() == set()


@pytest.mark.all  # slow
def test_a_hand_made_instance_is_adopted_and_nothing_is_rented_anew(stack, ledger, market, tmp_path):
    query = "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true"
    offer = json.loads(vastai(market, tmp_path, "search", "offers", query, "--raw"))[0]["id"]
    key = "a-key-made-by-hand"
    options = ["--image", "vllm/vllm-openai:latest", "--env", f"-p 8000:8000 -e VLLM_API_KEY={key}", "--disk", "40"]
    vastai(market, tmp_path, "create", "instance", str(offer), *options, "--args", "--model", MODEL)
    (made,) = ledger.billed()

    # vLLM's own key is all that such an instance has
    stack.set_secret("api_key", key)
    stack.write_config(adopt_instance_id=made, guard=False, tls=False)
    assert f"adopts instance {made} and rents none for this server" in stack.preview()
    done = stack.up()
    assert done.rc == 0, done.text
    assert stack.outputs()["instance_id"] == made
    assert ledger.billed() == {made}
    assert stack.drift().rc == 0
    stack.write_config(adopt_instance_id=None)
    assert stack.drift().rc == 0
    assert stack.destroy().rc == 0
    assert ledger.billed() == set()


def test_an_instance_that_cannot_be_adopted_is_left_as_it_is(stack, ledger):
    stack.write_config(adopt_instance_id=4711)
    done = stack.up()
    assert done.rc != 0
    assert "instance 4711 does not exist" in done
    assert ledger.contracts() == []


def test_orphans_are_those_with_our_labels_that_no_given_state_knows(stack, ledger, market, tmp_path):
    assert stack.up().rc == 0
    known = stack.outputs()["instance_id"]
    export = tmp_path / "state.json"
    export.write_text(stack.export())
    assert orphans(market, stack, str(export)).returncode == 0
    command = [sys.executable, "-m", "ops", "orphans", "--min-age-min", "0", "--cwd", str(stack.project)]
    env = stack.env | {"VAST_URL": market.url}
    by_backend = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (by_backend.returncode, by_backend.stdout.splitlines()[2]) == (0, "Compared with 1 state."), (
        by_backend.stderr
    )

    stray = rent(market, "vast-reranker/old/reranker@0a1b2c3d:abcdef~pending")
    notebook = rent(market, "my notebook")
    found = orphans(market, stack, str(export))
    assert found.returncode == 3
    assert f"instance {stray}: " in found.stdout
    assert str(known) not in found.stdout
    assert str(notebook) not in found.stdout
    assert ledger.billed() == {known, stray, notebook}

    assert orphans(market, stack, str(export), "--destroy", "--yes").returncode == 0
    assert ledger.billed() == {known, notebook}
    written = open_ledger("vast-reranker/old", stack.env, stack.project).events()
    assert [(event.kind, event.instance_id, event.reason) for event in written] == [
        ("rent", stray, ""), ("end", stray, "killed run"),
    ]  # fmt: skip


def instance(market, instance_id):
    url = f"{market.url}/api/v0/instances/{instance_id}/"
    return requests.get(url, headers={"Authorization": f"Bearer {EMULATOR_KEY}"}, timeout=10).json()["instances"]


def rent(market, label):
    """Rent any offer with a label, past our own code."""
    headers = {"Authorization": f"Bearer {EMULATOR_KEY}"}
    offers = requests.post(f"{market.url}/api/v0/bundles/", json={}, headers=headers, timeout=10).json()["offers"]
    body = {"image": "busybox:1.36", "disk": 10, "label": label, "env": {"-p 80:80": "1"}}
    offer = next(one for one in offers if one["disk_space"] > 50)
    url = f"{market.url}/api/v0/asks/{offer['id']}/"
    return requests.put(url, json=body, headers=headers, timeout=10).json()["new_contract"]


@pytest.mark.all
def test_two_states_with_the_same_stack_name_on_one_account_leave_each_other_alone(stack, market, ledger, tmp_path):
    other = EngineStack(tmp_path / "other", market.url).init()
    assert stack.up().rc == 0
    assert other.up().rc == 0
    ids = {stack.outputs()["instance_id"], other.outputs()["instance_id"]}
    assert len(ids) == 2
    assert ledger.billed() == ids
    assert other.destroy().rc == 0
    assert stack.drift().rc == 0
