"""Each row of the drift table through the real engine: what a preview says, its exit code, what `up` then does.

The rows are disturbed at once, each on a replica of its own of one fleet: one preview, one `up`, one preview.
"""

import datetime
import hashlib
import json
import re
import time

import pytest
import requests
from cryptography import x509

from components.guard.keys import Access, Key
from components.vast import drift
from components.vast.identity import fetch_certificate
from components.vllm.client import RerankClient
from emulator.server import EmulatorServer
from harness.certificates import ca_file
from harness.stack import EMULATOR_KEY, EngineStack, resources_of
from tests.engine.conftest import Ledger
from tests.engine.fleet import Ops

pytestmark = pytest.mark.engine
HEADERS = {"Authorization": f"Bearer {EMULATOR_KEY}"}
EXPECT_NO_CHANGES = ("preview", "--expect-no-changes", "--parallel", "64")


class Scene:
    """A running stack, its market, and the ways to disturb the replica at an index."""

    def __init__(self, market, stack):
        self.market = market
        self.stack = stack
        self.ledger = Ledger(market.control)

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
    "ending": (lambda scene, at: scene.instance(at, "end", seconds=3600), "the contract ends in 59 min"),
}
UPDATED = {
    "address": (lambda scene, at: scene.host(at, "change-port"), "moved from 127.0."),
    "renewal": (lambda scene, at: scene.host(at, "change-ip"), ", and its certificate is not for that IP"),
    "label": (lambda scene, at: scene.api(at, "PUT", label="mine now"), "the label is 'mine now'"),
}
WARNED = {
    "price": (lambda scene, at: scene.instance(at, "raise-price"), "/h when it was rented"),
    "price, announced": (lambda scene, at: scene.instance(at, "announce-price"), "the host announces $"),
}
ROWS = REPLACED | UPDATED | WARNED


def test_every_row_of_the_table_has_its_test():
    tested = {kind.partition(",")[0] for kind in (*ROWS, "unreachable", "certificate")}
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
            assert (old["url"] == new["url"]) == (kind not in (*REPLACED, "address", "renewal")), kind
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


def shown(scene, ca=""):
    out = scene.stack.outputs()
    return fetch_certificate(out["ip"], out["port"], ca or out["ca_certificate"])


def public_key(certificate):
    return x509.load_der_x509_certificate(certificate).public_key()


def renewed(scene):
    """Have the certificate renewed, and return the one before and the one after."""
    before = shown(scene)
    scene.stack.write_config({"renew.certificate_before_d": 30})  # all of its life
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert "certificate renewed in place: it ends in 30 days" in seen, seen.text
    assert "will be replaced" not in seen
    assert scene.stack.up().rc == 0
    scene.stack.write_config({"renew.certificate_before_d": 10})
    assert scene.stack.up().rc == 0
    assert scene.stack.drift().rc == 0
    return before, shown(scene)


@pytest.mark.all
def test_a_certificate_that_ends_soon_is_renewed_where_the_server_runs(scene):
    first = scene.instance_id
    before, after = renewed(scene)
    assert scene.instance_id == first
    shown_date = datetime.datetime.fromisoformat(scene.stack.outputs()["certificate_expires_at"])
    assert after.ends_at == shown_date.timestamp() > before.ends_at
    assert public_key(after.certificate) == public_key(before.certificate)
    assert re.fullmatch(r"\d+ routes", scene.stack.validation_report()["routes by the server's own list"])


def age_authority(scene, days, folder):
    """Change in the state when the authority ends."""
    state = json.loads(scene.stack.export())
    (authority,) = [one for one in resources_of(state["deployment"]) if one["type"].endswith(":CA")]
    authority["outputs"]["expires_at"] = time.time() + days * 86400
    (folder / "state.json").write_text(json.dumps(state))
    scene.stack.ok("stack", "import", "--file", str(folder / "state.json"))
    done = scene.stack.up()
    assert done.rc == 0, done.text
    return x509.load_pem_x509_certificates(scene.stack.outputs()["ca_certificate"].encode())


@pytest.mark.all
def test_a_new_authority_is_trusted_first_then_signs_and_no_machine_is_replaced(scene, tmp_path):
    first, file_before = scene.instance_id, scene.stack.outputs()["ca_certificate"]
    signs, following = age_authority(scene, 480, tmp_path)
    assert signs == x509.load_pem_x509_certificate(file_before.encode())
    file_between = scene.stack.outputs()["ca_certificate"]
    assert age_authority(scene, 399, tmp_path) == [following, signs]
    assert shown(scene, file_before)
    renewed(scene)
    assert not shown(scene, file_before)  # a client that never fetched the file again
    assert shown(scene, file_between)
    assert scene.instance_id == first
    assert_each_serves(scene.stack.outputs())


@pytest.mark.all
def test_a_server_that_takes_no_other_certificate_is_replaced_when_its_ip_moves(market, tmp_path):
    stack = EngineStack(tmp_path / "stack", market.url, config={"guard": False}).init()
    scene = Scene(market, stack)
    assert stack.up().rc == 0
    first = scene.instance_id
    scene.host(0, "change-ip")
    seen = stack.drift()
    assert seen.rc == 7, seen.text
    assert "will be replaced: certificate: " in seen, seen.text
    assert stack.up().rc == 0
    assert scene.instance_id != first
    assert scene.ledger.billed() == {scene.instance_id}


@pytest.mark.all  # slow
def test_keys_that_a_server_forgot_are_drift_and_up_tells_it_again(scene):
    first, out = scene.instance_id, scene.stack.outputs()
    own_key = scene.stack.own_key()
    client = RerankClient(out["url"], own_key, ca=out["ca_certificate"])
    client.set_access(Access())
    seen = scene.stack.drift()
    assert seen.rc == 7, seen.text
    assert "keys: these servers do not accept exactly the keys of this stack: reranker" in seen
    assert scene.stack.up().rc == 0
    assert scene.instance_id == first
    assert client.access().keys == (Key("default", hashlib.sha256(out["api_key"].encode()).hexdigest()),)
    assert scene.stack.drift().rc == 0


@pytest.mark.all
def test_silence_from_a_host_is_told_and_nothing_is_planned_unless_the_config_of_now_says_so(scene):
    first = scene.instance_id
    scene.stack.write_config({"timeouts.probe_timeout_s": 1, "timeouts.probe_window_s": 1})
    assert scene.stack.up().rc == 0
    scene.host(0, "unreachable")
    try:
        seen = scene.stack.drift()
        assert seen.rc == 0, seen.text
        assert "cannot be reached from here: no connection within" in seen
        assert "nothing is done unless heal_on is unreachable, since it may be this machine's own network" in seen
        told = Ops(scene.stack, "drift").end()
        assert told.rc == 8, told.err
        assert f"instance {first}" in told.document["error"]

        scene.stack.write_config(heal_on="never")
        seen = scene.stack.drift()
        assert "heal_on is never" in seen
        assert "to replace" not in seen  # the new setting is an update, of the watch alone

        scene.stack.write_config(heal_on="unreachable")  # the remedy that the message names
        seen = scene.stack.drift()
        assert seen.rc == 7, seen.text
        assert scene.stack.up().rc == 0
    finally:
        scene.host(0, "reachable")
    assert scene.instance_id != first
    assert scene.ledger.billed() == {scene.instance_id}
    scene.stack.write_config(heal_on="dead")
    assert scene.stack.up().rc == 0


@pytest.mark.all
def test_one_silent_server_keeps_nobody_from_scaling_healing_others_and_destroying(tmp_path):
    config = {"replicas": 2, "timeouts.probe_timeout_s": 1, "timeouts.probe_window_s": 1}
    with EmulatorServer(runtime="none", time="instant", state_dir=tmp_path / "emulator") as market:
        scene = Scene(market, EngineStack(tmp_path / "stack", market.url, config=config).init())
        assert scene.stack.up().rc == 0
        silent, other = (scene.replica(at)["instance_id"] for at in range(2))
        scene.host(0, "unreachable")
        scene.stack.write_config(replicas=3)
        done = scene.stack.up()
        assert done.rc == 0, done.text
        third = scene.replica(2)["instance_id"]
        assert scene.ledger.billed() == {silent, other, third}

        scene.instance(1, "kill")
        healed = Ops(scene.stack, "heal").end()
        assert healed.rc == 0, healed.err
        healthy = scene.replica(1)["instance_id"]
        assert scene.ledger.billed() == {silent, healthy, third}

        scene.stack.write_config(replicas=1)
        assert scene.stack.up().rc == 0
        assert scene.ledger.billed() == {silent}
        assert scene.stack.destroy().rc == 0
        assert scene.ledger.billed() == set()


HANGING = ("hang_after_accept", "hang_after_tls", "hang_after_request", "frozen")


@pytest.mark.all
def test_a_hung_engine_behind_a_living_address_is_healed_and_a_slow_one_is_only_slow(tmp_path):
    config = {"replicas": len(HANGING), "timeouts.probe_timeout_s": 1, "timeouts.answer_s": 3}
    with EmulatorServer(runtime="none", time="instant", state_dir=tmp_path / "emulator") as market:
        scene = Scene(market, EngineStack(tmp_path / "stack", market.url, config=config).init())
        assert scene.stack.up().rc == 0
        before = [one["instance_id"] for one in scene.stack.outputs()["replicas"]]
        for id_ in before:
            scene.ledger.fault("slow_answer", match={"id": id_}, seconds=2)
        assert scene.stack.drift().rc == 0
        scene.ledger.clear_faults()
        for id_, kind in zip(before, HANGING, strict=True):
            scene.ledger.fault(kind, match={"id": id_})
        told = Ops(scene.stack, "drift").end()
        assert told.rc == 7, told.err
        hung = [one for one in told.document["drift"] if "takes connections, but its server hangs" in one]
        assert len(hung) == len(HANGING), told.document["drift"]
        healed = Ops(scene.stack, "heal").end()
        assert healed.rc == 0, healed.err
        after = {one["instance_id"] for one in scene.stack.outputs()["replicas"]}
        assert not after & set(before)
        assert scene.ledger.billed() == after
        assert scene.stack.drift().rc == 0


@pytest.mark.all
def test_a_hung_server_can_be_destroyed(scene):
    scene.stack.write_config({"timeouts.answer_s": 2})
    assert scene.stack.up().rc == 0  # a destroy looks by what the state has
    scene.ledger.fault("hang_after_tls", match={"id": scene.instance_id})
    done = scene.stack.destroy()
    assert done.rc == 0, done.text
    assert scene.ledger.billed() == set()
