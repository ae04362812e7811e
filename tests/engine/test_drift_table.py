"""Each row of the drift table through the real engine: what a preview says, its exit code, what `up` then does.

The rows are disturbed at once, each on a replica of its own of one fleet: one preview, one `up`, one preview.
"""

import hashlib
import re

import pytest
import requests

from components.vast import drift
from components.vllm.client import RerankClient
from emulator.server import EmulatorServer
from harness.certificates import ca_file
from harness.stack import EMULATOR_KEY, EngineStack
from tests.engine.conftest import Ledger

pytestmark = pytest.mark.engine
HEADERS = {"Authorization": f"Bearer {EMULATOR_KEY}"}
EXPECT_NO_CHANGES = ("preview", "--expect-no-changes", "--parallel", "64")


class Scene:
    """A running stack, its market, and the ways to disturb the replica at an index."""

    def __init__(self, market, stack):
        self.market = market
        self.stack = stack
        self.ledger = Ledger(market.url)

    def replica(self, index=0):
        return self.stack.outputs()["replicas"][index]

    @property
    def instance_id(self):
        return self.replica()["instance_id"]

    def instance(self, index, action, **body):
        self.ledger.control(f"instances/{self.replica(index)['instance_id']}/{action}", **body)

    def host(self, index, action):
        self.ledger.control(f"hosts/{self.replica(index)['machine_id']}/{action}")

    def api(self, index, method, **body):
        url = f"{self.market.url}/api/v0/instances/{self.replica(index)['instance_id']}/"
        answer = requests.request(method, url, json=body, headers=HEADERS, timeout=10)
        answer.raise_for_status()
        return answer.json()


REPLACED = {
    "gone": (lambda scene, at: scene.api(at, "DELETE"), "is gone: Vast.ai no longer lists it"),
    "stopped": (lambda scene, at: scene.api(at, "PUT", state="stopped"), "stopped: instance"),
    "outbid": (lambda scene, at: scene.instance(at, "outbid"), "was outbid and paused"),
    "exited": (lambda scene, at: scene.instance(at, "kill"), "exited: instance"),
    "offline": (lambda scene, at: scene.host(at, "die"), "offline: instance"),
    "not-running": (
        lambda scene, at: scene.instance(at, "fields", actual_status="scheduling"),
        "not-running: instance",
    ),
    "engine-dead": (lambda scene, at: scene.instance(at, "wedge"), "does not serve: the connection is refused"),
    "image": (
        lambda scene, at: scene.instance(at, "image", image="vllm/vllm-openai:v0.18.0"),
        "runs vllm/vllm-openai:v0.18.0",
    ),
    "command": (
        lambda scene, at: scene.instance(at, "args", args=["--model", "other"]),
        "is not the one it was rented with",
    ),
    "certificate": (lambda scene, at: scene.host(at, "change-ip"), ", which its certificate does not name"),
    "ending": (lambda scene, at: scene.instance(at, "end", seconds=3600), "the contract ends in 59 min"),
}
UPDATED = {
    "address": (lambda scene, at: scene.host(at, "change-port"), "moved from 127.0."),
    "label": (lambda scene, at: scene.api(at, "PUT", label="mine now"), "the label is 'mine now'"),
}
WARNED = {
    "price": (lambda scene, at: scene.instance(at, "raise-price"), "/h when it was rented"),
    "price, announced": (lambda scene, at: scene.instance(at, "announce-price"), "the host announces $"),
}
ROWS = REPLACED | UPDATED | WARNED


def test_every_row_of_the_table_has_its_test():
    tested = {kind.partition(",")[0] for kind in (*ROWS, "unreachable")}
    assert tested == set(drift.TABLE)


def name_of(index):
    return f"reranker-{index + 1}" if index else "reranker"


def diagnostics(text):
    """Return what a command says of each resource at its end, by the resource's name."""
    found, name = {}, ""
    for line in text.partition("Diagnostics:\n")[2].splitlines():
        if heading := re.fullmatch(r"  \S+ \((\S+)\):", line):
            name = heading[1]
        elif line.startswith("    ") and name:
            found[name] = found.get(name, "") + line.strip() + "\n"
        elif line:
            break
    return found


def test_a_fleet_in_which_each_replica_has_drifted_in_another_way_is_told_and_repaired_row_by_row(tmp_path):
    config = {"replicas": len(ROWS), "renew.before_h": 2}
    with EmulatorServer(runtime="none", time="instant", state_dir=tmp_path / "emulator") as market:
        scene = Scene(market, EngineStack(tmp_path / "stack", market.url, config=config).init())
        done = scene.stack.up("--parallel", "64")
        assert done.rc == 0, done.text
        before = scene.stack.outputs()["replicas"]
        labels = {one["id"]: one["label"] for one in scene.ledger.contracts()}
        for at, (disturb, _) in enumerate(ROWS.values()):
            disturb(scene, at)

        seen = scene.stack.run(*EXPECT_NO_CHANGES)
        assert seen.rc == 7, seen.text
        said = diagnostics(seen.text)
        for at, (kind, (_, words)) in enumerate(ROWS.items()):
            row = said[name_of(at)]
            assert words in row, f"{kind}: {row}"
            assert ("first choice: offer" in row) == (kind in REPLACED), f"{kind}: {row}"
            assert ("will be replaced" in row) == (kind in REPLACED and kind != "gone"), f"{kind}: {row}"

        done = scene.stack.up("--parallel", "64")
        assert done.rc == 0, done.text
        after = scene.stack.outputs()["replicas"]
        for kind, old, new in zip(ROWS, before, after, strict=True):
            assert (old["instance_id"] == new["instance_id"]) == (kind not in REPLACED), kind
            assert (old["url"] == new["url"]) == (kind not in REPLACED and kind != "address"), kind
        assert scene.ledger.billed() == {one["instance_id"] for one in after}
        kept = {one["id"]: one["label"] for one in scene.ledger.contracts() if not one["destroyed_at"]}
        assert {number: kept[number] for number in kept if number in labels} == {
            number: labels[number] for number in kept if number in labels
        }
        assert_each_serves(scene.stack.outputs())
        seen = scene.stack.run(*EXPECT_NO_CHANGES)
        assert seen.rc == 0, seen.text
        said = diagnostics(seen.text)
        for at, (kind, (_, words)) in enumerate(ROWS.items()):
            assert (words in said.get(name_of(at), "")) == (kind in WARNED), f"{kind}: {said}"


def assert_each_serves(out):
    key = {"Authorization": f"Bearer {out['api_key']}"}
    body, trust = {"query": "q", "documents": ["q"]}, ca_file(out["ca_certificate"])
    for one in out["replicas"]:
        assert requests.post(f"{one['url']}/rerank", json=body, headers=key, verify=trust, timeout=10).ok, one


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One replica, for drift that takes a change of config to be seen; each test leaves it in sync."""
    folder = tmp_path_factory.mktemp("drift")
    with EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market:
        stack = EngineStack(folder / "stack", market.url).init()
        done = stack.up()
        assert done.rc == 0, done.text
        yield Scene(market, stack)


@pytest.mark.all
def test_a_certificate_that_ends_soon_is_renewed_with_a_new_instance(scene):
    first = scene.instance_id
    scene.stack.write_config({"renew.certificate_before_d": 398})
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert scene.stack.up().rc == 0  # the watch is told first
    seen = scene.stack.drift()
    assert "certificate: it ends in 397 days" in seen or "certificate: it ends in 396 days" in seen, seen.text
    assert scene.stack.up().rc == 0
    assert scene.instance_id != first
    scene.stack.write_config({"renew.certificate_before_d": 30})
    assert scene.stack.up().rc == 0
    assert scene.stack.up().rc == 0
    assert scene.stack.drift().rc == 0


def test_keys_that_a_server_forgot_are_drift_and_up_tells_it_again(scene):
    first, out = scene.instance_id, scene.stack.outputs()
    own_key = scene.stack.own_key()
    client = RerankClient(out["url"], own_key, ca=out["ca_certificate"])
    client.set_keys([])
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert "keys: these servers do not accept exactly the keys of this stack: reranker" in seen
    assert scene.stack.up().rc == 0
    assert scene.instance_id == first
    assert client.list_keys() == [hashlib.sha256(out["api_key"].encode()).hexdigest()]
    assert scene.stack.drift().rc == 0


def test_silence_from_the_host_is_an_error_and_never_a_plan_to_replace(scene):
    first = scene.instance_id
    scene.stack.write_config({"timeouts.probe_timeout_s": "1"})
    assert scene.stack.up().rc == 0
    scene.host(0, "unreachable")
    try:
        seen = scene.stack.drift()
        assert seen.rc not in (0, 7), seen.text
        assert "cannot be reached from here" in seen
        assert "it may be this machine's own network" in seen
        assert "replace" not in seen.text.partition("error:")[0]

        scene.stack.write_config(heal_on="never")
        # what the state has is what counts until an up has recorded the new setting
        scene.host(0, "reachable")
        assert scene.stack.up().rc == 0
        scene.host(0, "unreachable")
        seen = scene.stack.drift()
        assert seen.rc == 0, seen.text
        assert "nothing is done" in seen
    finally:
        scene.host(0, "reachable")
    assert scene.instance_id == first


@pytest.mark.all
def test_with_heal_on_unreachable_silence_is_replaced(scene):
    first = scene.instance_id
    scene.stack.write_config(heal_on="unreachable")
    assert scene.stack.up().rc == 0
    scene.host(0, "unreachable")
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    done = scene.stack.up()
    assert done.rc == 0, done.text
    assert scene.instance_id != first
    assert scene.ledger.billed() == {scene.instance_id}
    scene.stack.write_config(heal_on="dead")
    assert scene.stack.up().rc == 0
