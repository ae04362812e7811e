"""Fleets through the real engine: machines of their own, growth and shrinkage, one bad replica, a gateway in front."""

import json
import sys
import threading
import time
from collections import Counter

import pytest
import requests

from components.caddy.config import Certificate
from components.caddy.front import front
from components.caddy.process import Caddy
from components.vast.identity import Authority, ca_file
from emulator.runtime import free_port
from emulator.server import EmulatorServer
from harness.stack import EngineStack
from tests.engine.conftest import Ledger

pytestmark = pytest.mark.engine
WIDE = ("--parallel", "64")


def up(stack, rc=0):
    done = stack.up(*WIDE)
    assert done.rc == rc, done.text
    return done


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """A fleet of two, without a gateway."""
    folder = tmp_path_factory.mktemp("fleet")
    with EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market:
        stack = EngineStack(folder / "stack", market.url, config={"replicas": 2}).init()
        up(stack)
        yield stack, Ledger(market.url)


def test_each_replica_has_a_machine_and_a_host_of_its_own(growing):
    stack, ledger = growing
    rows = stack.outputs()["replicas"]
    assert len({one["machine_id"] for one in rows}) == len({one["host_id"] for one in rows}) == 2
    assert {one["instance_id"] for one in rows} == ledger.billed()
    assert stack.outputs()["hourly_cost_usd"]["total"] == pytest.approx(sum(one["hourly_cost_usd"] for one in rows))


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
    done = stack.up(*WIDE)
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
def balanced(tmp_path):
    """A fleet of two behind a Caddy that is told through its socket, with a door before it that never changes."""
    port, door_authority = free_port("127.0.0.1"), Authority.make("door")
    pem, key = door_authority.issue("127.0.0.1").pem()
    caddy, door = Caddy(tmp_path / "caddy"), Caddy(tmp_path / "front")
    socket = tmp_path / "g.sock"
    caddy.start()
    door.start(front(f"127.0.0.1:{port}", str(socket), Certificate("pem", pem, key)))
    with EmulatorServer(runtime="stub", time="instant", state_dir=tmp_path / "emulator") as market:
        config = {
            "replicas": 2,
            "gateway.kind": "caddy",
            "gateway.admin_url": caddy.admin_url,
            "gateway.listen": f"unix/{socket}|0600",
            "gateway.url": f"https://127.0.0.1:{port}",
            "timeouts.drain_s": 20,
        }
        stack = EngineStack(tmp_path / "stack", market.url, config=config).init()
        up(stack)
        yield Balanced(stack, Ledger(market.url), caddy, ca_file(door_authority.certificate))
        assert stack.destroy().rc == 0
        assert Ledger(market.url).billed() == set()
    door.stop()
    caddy.stop()


class Balanced:
    def __init__(self, stack, ledger, caddy, trust):
        self.stack, self.ledger, self.caddy, self.trust = stack, ledger, caddy, trust
        out = stack.outputs()
        self.url, self.key = out["url"], out["api_key"]

    def ask(self, key=None, session=requests):
        body = {"query": "deep learning", "documents": ["pizza", "deep learning"]}
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return session.post(f"{self.url}/rerank", json=body, headers=headers, verify=self.trust, timeout=30)


class Load:
    """Steady requests through the gateway: so many a second in all, and what came of each."""

    def __init__(self, target, *, per_s=60.0, threads=6):
        self.target, self.pause = target, threads / per_s
        self.stop = threading.Event()
        self.answers, self.spent_s = Counter(), []
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self):
        self.began = time.monotonic()
        for one in self.threads:
            one.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for one in self.threads:
            one.join()
        self.rate = len(self.spent_s) / (time.monotonic() - self.began)

    def _run(self):
        session = requests.Session()
        due = time.monotonic()
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.answers[self.target.ask(session=session).status_code] += 1
            except requests.RequestException as error:
                self.answers[type(error).__name__] += 1
            self.spent_s.append(time.monotonic() - began)
            due = max(due + self.pause, time.monotonic() - 1)
            self.stop.wait(max(0.0, due - time.monotonic()))

    def p99_ms(self):
        return sorted(self.spent_s)[int(len(self.spent_s) * 0.99)] * 1000

    def __str__(self):
        return f"{dict(self.answers)}, {self.rate:.0f}/s, p99 {self.p99_ms():.0f} ms"


def test_no_request_fails_while_a_fleet_rolls_heals_scales_and_changes_its_key(balanced, capsys):
    stack, seen = balanced.stack, {}
    with Load(balanced) as quiet:
        threading.Event().wait(5)
    seen["quiet"] = quiet

    def under_load(name, act):
        with Load(balanced) as load:
            act()
        seen[name] = load

    def roll():
        before = stack.instances()
        stack.write_config(extra_args=["--max-num-seqs", "64"])
        up(stack)
        assert not before & stack.instances()

    def heal():
        victim = stack.outputs()["replicas"][1]["instance_id"]
        balanced.ledger.control(f"instances/{victim}/kill")
        up(stack)
        assert victim not in stack.instances()

    def scale():
        for replicas in (5, 2):
            stack.write_config(replicas=replicas)
            up(stack)

    def new_key():
        stack.write_config(api_key_generation=2, keep_previous_key=True)
        up(stack)
        old, balanced.key = balanced.key, stack.outputs()["api_key"]
        assert old != balanced.key
        threading.Event().wait(1)
        stack.write_config(keep_previous_key=False)
        up(stack)
        assert balanced.ask(old).status_code == 401

    under_load("roll", roll)
    under_load("heal", heal)
    under_load("scale 2-5-2", scale)
    under_load("key", new_key)
    with capsys.disabled():
        sys.stdout.write("".join(f"\n  {name}: {load}" for name, load in seen.items()) + "\n")
    for name, load in seen.items():
        assert set(load.answers) == {200}, f"{name}: {load}"
    assert stack.drift().rc == 0


@pytest.mark.all
def test_a_gateway_that_lost_its_config_or_was_changed_by_hand_is_drift_and_up_restores_it(balanced):
    stack = balanced.stack
    balanced.caddy.stop()
    balanced.caddy.start()
    seen = stack.drift()
    assert seen.rc == 7, seen.text
    assert "restarted-empty" in seen
    up(stack)
    assert balanced.ask().status_code == 200

    config, etag = balanced.caddy.admin.config()
    assert etag is not None
    text = json.dumps(config).replace("least_conn", "random")
    assert text != json.dumps(config)
    balanced.caddy.admin.change(lambda _: json.loads(text))
    seen = stack.drift()
    assert seen.rc == 7, seen.text
    up(stack)
    assert "least_conn" in json.dumps(balanced.caddy.admin.config()[0])
    assert stack.drift().rc == 0


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
        assert len(Ledger(market.url).billed()) == 3

        old, through = stack.instances(), Balanced(stack, Ledger(market.url), None, trust)
        with Load(through) as rolled:
            stack.write_config(extra_args=["--max-num-seqs", "64"])
            up(stack)
        assert set(rolled.answers) == {200}, str(rolled)
        [gateway] = old & stack.instances()  # it stays, and its servers are others now
        assert gateway not in {one["instance_id"] for one in stack.outputs()["replicas"]}
        with Load(through) as rotated:
            stack.write_config(api_key_generation=2, keep_previous_key=True)
            up(stack)
            before, through.key = through.key, stack.outputs()["api_key"]
            threading.Event().wait(1)
            stack.write_config(keep_previous_key=False)
            up(stack)
        assert set(rotated.answers) == {200}, str(rotated)
        assert (through.ask(before).status_code, through.ask().status_code) == (401, 200)
        assert stack.destroy().rc == 0
        assert Ledger(market.url).billed() == set()
