"""Each row of the drift table through the real engine: what preview says, its exit code, what up then does.

One stack lives through all rows; every row leaves it in sync again.
"""

import hashlib
import json

import pytest
import requests

from components.vast import drift
from components.vast.identity import ca_file
from components.vllm.client import RerankClient
from emulator.server import EmulatorServer
from tests.engine.conftest import Ledger
from tests.engine.stack import EMULATOR_KEY, EngineStack

pytestmark = pytest.mark.engine
HEADERS = {"Authorization": f"Bearer {EMULATOR_KEY}"}


class Scene:
    """A running stack, its market, and the ways to disturb it."""

    def __init__(self, market, stack):
        self.market = market
        self.stack = stack
        self.ledger = Ledger(market.url)

    @property
    def instance_id(self):
        return self.stack.outputs()["instance_id"]

    def instance(self, action, **body):
        self.ledger.control(f"instances/{self.instance_id}/{action}", **body)

    def host(self, action):
        self.ledger.control(f"hosts/{self.stack.outputs()['machine_id']}/{action}")

    def api(self, method, **body):
        url = f"{self.market.url}/api/v0/instances/{self.instance_id}/"
        requests.request(method, url, json=body, headers=HEADERS, timeout=10).raise_for_status()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    with EmulatorServer(runtime="none", time="instant", state_dir=folder / "emulator") as market:
        stack = EngineStack(folder / "stack", market.url, config={"renew_before_h": 2}).init()
        done = stack.up()
        assert done.rc == 0, done.text
        yield Scene(market, stack)


REPLACED = {
    "gone": (lambda scene: scene.api("DELETE"), "is gone: Vast.ai no longer lists it"),
    "stopped": (lambda scene: scene.api("PUT", state="stopped"), "stopped: instance"),
    "outbid": (lambda scene: scene.instance("outbid"), "was outbid and paused"),
    "exited": (lambda scene: scene.instance("kill"), "exited: instance"),
    "offline": (lambda scene: scene.host("die"), "offline: instance"),
    "not-running": (lambda scene: scene.instance("fields", actual_status="scheduling"), "not-running: instance"),
    "engine-dead": (lambda scene: scene.instance("wedge"), "does not serve: the connection is refused"),
    "image": (lambda scene: scene.instance("image", image="vllm/vllm-openai:v0.18.0"), "runs vllm/vllm-openai:v0.18.0"),
    "command": (lambda scene: scene.instance("args", args=["--model", "other"]), "is not the one it was rented with"),
    "certificate": (lambda scene: scene.host("change-ip"), ", which its certificate does not name"),
    "ending": (lambda scene: scene.instance("end", seconds=3600), "the contract ends in 59 min"),
}
UPDATED = {
    "address": (lambda scene: scene.host("change-port"), "moved from 127.0."),
    "label": (lambda scene: scene.api("PUT", label="mine now"), "the label is 'mine now'"),
}
WARNED = {
    "price": (lambda scene: scene.instance("raise-price"), "/h when it was rented"),
    "price, announced": (lambda scene: scene.instance("announce-price"), "the host announces $"),
}


def test_every_row_of_the_table_has_its_test():
    tested = {kind.partition(",")[0] for kind in (*REPLACED, *UPDATED, *WARNED, "unreachable")}
    assert tested == set(drift.TABLE)


@pytest.mark.parametrize("kind", REPLACED)
def test_up_replaces_what_has(scene, kind):
    disturb, says = REPLACED[kind]
    first = scene.instance_id
    disturb(scene)

    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert says in seen, seen.text
    assert "first choice: offer" in seen, seen.text

    done = scene.stack.up()
    assert done.rc == 0, done.text
    second = scene.instance_id
    assert second != first
    assert scene.ledger.billed() == {second}
    assert scene.stack.drift().rc == 0


@pytest.mark.parametrize("kind", UPDATED)
def test_up_updates_in_place_what_has_another(scene, kind):
    disturb, says = UPDATED[kind]
    first = scene.instance_id
    disturb(scene)

    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert says in seen, seen.text

    done = scene.stack.up()
    assert done.rc == 0, done.text
    assert scene.instance_id == first
    assert scene.stack.drift().rc == 0
    out = scene.stack.outputs()
    key = {"Authorization": f"Bearer {out['api_key']}"}
    body, trust = {"query": "q", "documents": ["q"]}, ca_file(out["ca_certificate"])
    assert requests.post(f"{out['url']}/rerank", json=body, headers=key, verify=trust, timeout=10).ok


def test_a_certificate_that_ends_soon_is_renewed_with_a_new_instance(scene):
    first = scene.instance_id
    scene.stack.write_config(tls_renew_before_d=398)
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert scene.stack.up().rc == 0  # the watch is told first
    seen = scene.stack.drift()
    assert "certificate: it ends in 397 days" in seen or "certificate: it ends in 396 days" in seen, seen.text
    assert scene.stack.up().rc == 0
    assert scene.instance_id != first
    scene.stack.write_config(tls_renew_before_d=30)
    assert scene.stack.up().rc == 0
    assert scene.stack.up().rc == 0
    assert scene.stack.drift().rc == 0


def test_keys_that_a_server_forgot_are_drift_and_up_tells_it_again(scene):
    first, out = scene.instance_id, scene.stack.outputs()
    own = next(
        one["outputs"]["value"]
        for one in json.loads(scene.stack.run("stack", "export", "--show-secrets").text)["deployment"]["resources"]
        if one["urn"].endswith("::reranker-own-key")
    )
    own_key = json.loads(own["plaintext"])
    client = RerankClient(out["url"], own_key, verify=ca_file(out["ca_certificate"]))
    client.hold_keys([])
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert "keys: these servers do not accept exactly the keys of this stack: reranker" in seen
    assert scene.stack.up().rc == 0
    assert scene.instance_id == first
    assert client.held_keys() == [hashlib.sha256(out["api_key"].encode()).hexdigest()]
    assert scene.stack.drift().rc == 0


@pytest.mark.parametrize("kind", WARNED)
def test_preview_warns_and_up_does_nothing_about_a(scene, kind):
    disturb, says = WARNED[kind]
    first = scene.instance_id
    disturb(scene)
    seen = scene.stack.drift()
    assert seen.rc == 0, seen.text
    assert says in seen, seen.text
    assert scene.stack.up().rc == 0
    assert scene.instance_id == first


def test_silence_from_the_host_is_an_error_and_never_a_plan_to_replace(scene):
    first = scene.instance_id
    scene.stack.write_config(probe_timeout_s="1")
    assert scene.stack.up().rc == 0
    scene.host("unreachable")
    try:
        seen = scene.stack.drift()
        assert seen.rc not in (0, 7), seen.text
        assert "cannot be reached from here" in seen
        assert "it may be this machine's own network" in seen
        assert "replace" not in seen.text.partition("error:")[0]

        scene.stack.write_config(heal_on="never")
        # what the state has is what counts until an up has recorded the new setting
        scene.host("reachable")
        assert scene.stack.up().rc == 0
        scene.host("unreachable")
        seen = scene.stack.drift()
        assert seen.rc == 0, seen.text
        assert "nothing is done" in seen
    finally:
        scene.host("reachable")
    assert scene.instance_id == first


def test_with_heal_on_unreachable_silence_is_replaced(scene):
    first = scene.instance_id
    scene.stack.write_config(heal_on="unreachable")
    assert scene.stack.up().rc == 0
    scene.host("unreachable")
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    done = scene.stack.up()
    assert done.rc == 0, done.text
    assert scene.instance_id != first
    assert scene.ledger.billed() == {scene.instance_id}
    scene.stack.write_config(heal_on="dead")
    assert scene.stack.up().rc == 0
