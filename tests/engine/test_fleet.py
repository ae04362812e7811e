"""Fleets through the real engine: machines of their own, growth and shrinkage, one bad replica, a gateway in front."""

import json
import sys
import threading

import pytest
import requests

from emulator.runtime import free_port
from emulator.server import EmulatorServer
from harness.caddy import running
from harness.certificates import ca_file
from harness.load import LoadGenerator
from harness.stack import EngineStack
from tests.engine.conftest import Ledger
from tests.engine.fleet import behind, endpoint, up

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """A fleet of two, without a gateway."""
    folder = tmp_path_factory.mktemp("fleet")
    with EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market:
        stack = EngineStack(folder / "stack", market.url, config={"replicas": 2}).init()
        up(stack)
        yield stack, Ledger(market.control)


def test_each_replica_has_a_machine_and_a_host_of_its_own(growing):
    stack, ledger = growing
    rows = stack.outputs()["replicas"]
    assert len({one["machine_id"] for one in rows}) == len({one["host_id"] for one in rows}) == 2
    assert {one["instance_id"] for one in rows} == ledger.billed()
    assert stack.outputs()["hourly_cost_usd"]["total"] == pytest.approx(sum(one["hourly_cost_usd"] for one in rows))


@pytest.mark.all
def test_growing_and_shrinking_touch_only_the_difference(growing):
    stack, ledger = growing
    two = [one["instance_id"] for one in stack.outputs()["replicas"]]
    stack.write_config(replicas=4)
    assert "first choice: offer" in stack.preview()
    up(stack)
    four = stack.outputs()["replicas"]
    assert [one["instance_id"] for one in four][:2] == two
    assert len({one["host_id"] for one in four}) == 4
    assert stack.drift().rc == 0
    stack.write_config(replicas=2)
    up(stack)
    assert [one["instance_id"] for one in stack.outputs()["replicas"]] == two
    assert ledger.billed() == set(two)


def test_only_the_replica_that_died_is_replaced(growing):
    stack, ledger = growing
    first, second = (one["instance_id"] for one in stack.outputs()["replicas"])
    ledger.control(f"instances/{second}/kill")
    seen = stack.drift()
    assert seen.rc == 7, seen.text
    up(stack)
    now = [one["instance_id"] for one in stack.outputs()["replicas"]]
    assert now[0] == first
    assert now[1] not in (first, second)
    assert ledger.billed() == set(now)


@pytest.mark.all
def test_one_replica_that_does_not_come_up_costs_the_others_nothing_and_is_named(growing):
    stack, ledger = growing
    kept = [one["instance_id"] for one in stack.outputs()["replicas"]]
    stack.write_config(replicas=4, max_tries=1)
    ledger.control("faults", kind="oci_error", times=1)
    done = stack.up("--parallel", "64")
    assert done.rc != 0
    named = [f"reranker-{number} **creating failed**" for number in (3, 4)]
    failed = [name for name in named if name in done]
    assert len(failed) == 1, done.text
    assert "1 of at most 1 candidates were tried, none serves" in done
    assert len(ledger.billed()) == 3
    assert stack.instances() == ledger.billed() > set(kept)
    up(stack)
    assert len(ledger.billed()) == 4
    assert stack.drift().rc == 0
    stack.write_config(replicas=2, max_tries=5)
    up(stack)


@pytest.fixture
def balanced(gateway_caddy, market, ledger, tmp_path):
    """A stack of two behind a Caddy of its own, with a front before it that never changes."""
    stack = behind(gateway_caddy, tmp_path / "stack", market, replicas=2)
    yield stack
    assert stack.destroy().rc == 0
    assert ledger.billed() == set()


@pytest.mark.all
def test_no_request_fails_while_a_fleet_rolls_heals_scales_and_changes_its_key(balanced, ledger, capsys):
    stack, at, seen = balanced, endpoint(balanced), {}
    with LoadGenerator(at) as quiet:
        threading.Event().wait(5)
    seen["quiet"] = quiet

    def under_load(name, act):
        with LoadGenerator(at) as load:
            act()
        seen[name] = load

    def roll():
        before = stack.instances()
        stack.write_config(extra_args=["--max-num-seqs", "64"])
        up(stack)
        assert not before & stack.instances()

    def heal():
        victim = stack.outputs()["replicas"][1]["instance_id"]
        ledger.control(f"instances/{victim}/kill")
        up(stack)
        assert victim not in stack.instances()

    def scale():
        for replicas in (5, 2):
            stack.write_config(replicas=replicas)
            up(stack)

    def new_key():
        stack.write_config(api_key_generation=2, keep_previous_key=True)
        up(stack)
        old, at.key = at.key, stack.outputs()["api_key"]
        assert old != at.key
        threading.Event().wait(1)
        stack.write_config(keep_previous_key=False)
        up(stack)
        assert at.ask(old).status_code == 401

    under_load("roll", roll)
    under_load("heal", heal)
    under_load("scale 2-5-2", scale)
    under_load("key", new_key)
    with capsys.disabled():
        sys.stdout.write("".join(f"\n  {name}: {load}" for name, load in seen.items()) + "\n")
    for name, load in seen.items():
        assert load.failures == [], f"{name}: {load}"
    assert stack.drift().rc == 0


@pytest.mark.all
def test_a_gateway_that_lost_its_config_or_was_changed_by_hand_is_drift_and_up_restores_it(balanced, gateway_caddy):
    stack, caddy = balanced, gateway_caddy.caddy
    caddy.stop()
    caddy.start()
    seen = stack.drift()
    assert seen.rc == 7, seen.text
    assert "restarted-empty" in seen
    up(stack)
    assert endpoint(stack).ask().status_code == 200

    config = caddy.admin.config()
    text = json.dumps(config).replace("least_conn", "random")
    assert text != json.dumps(config)
    caddy.admin.load(json.loads(text))
    seen = stack.drift()
    assert seen.rc == 7, seen.text
    up(stack)
    assert "least_conn" in json.dumps(caddy.admin.config())
    assert stack.drift().rc == 0


@pytest.mark.all
def test_a_caddy_without_a_front_shows_a_certificate_of_the_stacks_ca_for_gateway_url(tmp_path, market, ledger):
    port = free_port("127.0.0.1")
    with running(tmp_path / "c") as caddy:
        config = {
            "gateway.kind": "caddy",
            "gateway.admin_url": caddy.admin_url,
            "gateway.listen": f"127.0.0.1:{port}",
            "gateway.url": f"https://localhost:{port}",
        }
        stack = EngineStack(tmp_path / "stack", market.url, config=config).init()
        up(stack)
        at = endpoint(stack)
        assert at.url == config["gateway.url"]
        assert at.ask().status_code == 200
        assert at.ask("wrong" * 8).status_code == 401
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"https://127.0.0.1:{port}/rerank", verify=at.ca, timeout=10)
        assert stack.drift().rc == 0
        assert stack.destroy().rc == 0
        assert not caddy.admin.config()
    assert ledger.billed() == set()


@pytest.mark.all
def test_a_rented_gateway_has_its_admin_route_closed_and_fails_no_request_in_a_roll_or_a_rotation(tmp_path):
    with EmulatorServer(runtime="stub", time="instant", state_dir=tmp_path / "emulator") as market:
        config = {"replicas": 2, "gateway.kind": "rent"}
        stack = EngineStack(tmp_path / "stack", market.url, config=config).init()
        up(stack)
        out = stack.outputs()
        trust = ca_file(out["ca_certificate"])
        key = {"Authorization": f"Bearer {out['api_key']}"}
        body = {"query": "deep learning", "documents": ["pizza", "deep learning"]}
        answer = requests.post(f"{out['url']}/rerank", json=body, headers=key, verify=trust, timeout=10)
        assert [one["index"] for one in answer.json()["results"]] == [1, 0]
        for path in ("/admin/config/", "/config/", "/admin/reverse_proxy/upstreams", "/rerank"):
            assert requests.get(f"{out['url']}{path}", verify=trust, timeout=10).status_code in (401, 404)
        for path in ("/admin/config/", "/config/"):
            assert requests.get(f"{out['url']}{path}", headers=key, verify=trust, timeout=10).status_code == 404
        assert stack.drift().rc == 0
        assert len(Ledger(market.control).billed()) == 3

        old, through = stack.instances(), endpoint(stack)
        with LoadGenerator(through) as rolled:
            stack.write_config(extra_args=["--max-num-seqs", "64"])
            up(stack)
        assert rolled.failures == [], str(rolled)
        [gateway] = old & stack.instances()  # it stays, and its servers are others now
        assert gateway not in {one["instance_id"] for one in stack.outputs()["replicas"]}
        with LoadGenerator(through) as rotated:
            stack.write_config(api_key_generation=2, keep_previous_key=True)
            up(stack)
            before, through.key = through.key, stack.outputs()["api_key"]
            threading.Event().wait(1)
            stack.write_config(keep_previous_key=False)
            up(stack)
        assert rotated.failures == [], str(rotated)
        assert (through.ask(before).status_code, through.ask().status_code) == (401, 200)
        assert stack.destroy().rc == 0
        assert Ledger(market.control).billed() == set()
