"""A container as the stack launches it: the guard's process in front of the server's, and faults at its port."""

import os
import signal
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from components.clients import Client
from components.guard.keys import Access
from components.vast.identity import Authority
from components.vllm.catalog import load_catalog
from components.vllm.client import RerankClient
from components.vllm.launch import plan_launch
from harness.wait import until
from tests.client_ca import ClientCa
from tests.emulator.client import MODEL, endpoint
from tests.emulator.launched import container_pids
from tests.emulator.test_containers import log_with
from tests.emulator.test_server_faults import off

PAIR = {"query": "a", "documents": ["b"]}


class Guarded:
    """A guarded server with TLS on a market, and a client that trusts it."""

    def __init__(self, market, tmp_path):
        offer, authority = market.offer(), Authority.make("test")
        catalog = load_catalog()
        launch = plan_launch(catalog.model(MODEL), catalog.default_image, api_key="sesame", guard=True, tls=True)
        self.identity = authority.issue(offer["public_ipaddr"].strip())
        env = {f"-p {launch.ports[0]}": "1", **launch.container_env, **self.identity.env()}
        self.row = market.running(ask_id=offer["id"], onstart=launch.onstart, args=list(launch.args), env=env)
        self.url = endpoint(self.row).replace("http:", "https:")
        self.ca = tmp_path / "ca.pem"
        self.ca.write_text(authority.certificate)

    def ask(self, key="sesame", timeout=5, body=PAIR, **options):
        session = requests.Session()
        session.trust_env = False
        headers = {"Authorization": f"Bearer {key}"}
        return session.post(
            f"{self.url}/rerank", json=body, headers=headers, timeout=timeout, verify=str(self.ca), **options
        )

    def is_well(self):
        try:
            return self.ask().status_code == 200
        except requests.RequestException:
            return False


@pytest.fixture(params=["vast", "stub"])
def market(request):
    return request.getfixturevalue(request.param)


def test_a_launch_is_guarded_in_every_runtime(market, tmp_path):
    guarded = Guarded(market, tmp_path)
    until(guarded.is_well)
    assert guarded.ask(key="x").status_code == 401
    assert guarded.ask(body={**PAIR, "padding": "max_length"}).status_code == 400
    large = {"query": "a", "documents": ["b" * 70_000]}
    assert guarded.ask(body=large).status_code == 200, "a large body is judged in a process beside"
    line = log_with(market, guarded.row["id"], '"status": 200')
    assert "sesame" not in line


def test_named_keys_are_told_to_a_running_container_and_each_is_metered_by_its_name(stub, tmp_path):
    guarded = Guarded(stub, tmp_path)
    until(guarded.is_well)
    manager = RerankClient(guarded.url, "sesame", ca=guarded.ca.read_text())
    search, batch, past = Client("search", "search-1"), Client("batch", "b", pairs_per_min=1), Client("past", "p", 1.0)
    manager.set_access(Access(tuple(one.entry() for one in (search, batch, past))))
    statuses = [guarded.ask(key=key).status_code for key in ("search-1", "search-1", "b", "p")]
    assert statuses == [200, 200, 200, 401]
    refused = guarded.ask(key="b")
    assert (refused.status_code, 1 <= int(refused.headers["Retry-After"]) <= 60) == (429, True)
    manager.set_access(Access(tuple(one.entry() for one in (replace(search, key="search-2"), batch))))
    assert [guarded.ask(key=key).status_code for key in ("search-1", "search-2", "b")] == [401, 200, 429]
    headers = {"Authorization": "Bearer sesame"}
    metrics = requests.get(f"{guarded.url}/metrics", headers=headers, verify=str(guarded.ca), timeout=5).text
    for line in ('requests_total{key="search",status="200"} 3', 'requests_total{key="batch",status="429"} 2'):
        assert line in metrics
    assert log_with(stub, guarded.row["id"], '"key": "batch", "route": "/rerank", "pairs": 1, "tokens": 0, "status": 4')


def test_a_running_container_is_told_whose_certificates_a_clients_key_needs_beside_it(stub, tmp_path):
    guarded, ca = Guarded(stub, tmp_path), ClientCa()
    until(guarded.is_well)
    manager = RerankClient(guarded.url, "sesame", ca=guarded.ca.read_text())
    shown, others = ({"cert": tuple(map(str, one.issue(tmp_path)))} for one in (ca, ClientCa("another")))
    for client_ca, statuses in ((ca.pem, [403, 200, 200]), ("", [200, 200, 200])):
        manager.set_access(Access((Client("search", "search-1").entry(),), client_ca))
        found = [guarded.ask("search-1"), guarded.ask("search-1", **shown), guarded.ask()]
        assert [one.status_code for one in found] == statuses
        if client_ca:
            with pytest.raises(requests.exceptions.SSLError, match="unknown ca"):
                guarded.ask("search-1", **others)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("firewall", requests.ConnectTimeout),
        ("hang_after_accept", requests.Timeout),
        ("hang_after_tls", requests.Timeout),
        ("frozen", requests.Timeout),
        ("hang_after_request", requests.Timeout),
        ("cut_answer", requests.exceptions.ChunkedEncodingError),
    ],
)
def test_faults_act_on_a_guarded_server_as_on_any_other(market, tmp_path, kind, error):
    guarded = Guarded(market, tmp_path)
    until(guarded.is_well)
    market.fault(kind, {"id": guarded.row["id"]})

    def fails():
        try:
            guarded.ask(timeout=0.3)
        except error:
            return True
        except requests.RequestException:
            pass
        return False

    until(fails)
    off(market)
    until(guarded.is_well)


def test_before_vllm_serves_the_guard_says_503_to_a_key_and_401_to_none(stub, tmp_path):
    guarded = Guarded(stub, tmp_path)
    statuses = []

    def settled():
        try:
            statuses.append((guarded.ask().status_code, guarded.ask(key="x").status_code))
        except requests.RequestException:
            return False
        return statuses[-1] == (200, 401)

    until(settled)
    assert set(statuses) <= {(503, 401), (200, 401)}


def test_a_dead_vllm_ends_the_container_with_its_code_and_a_dead_guard_ends_vllm(stub, tmp_path):
    for victim, status in (("emulator.stub", "exited (137)\n"), ("guard_shim", "exited (-9)\n")):
        guarded = Guarded(stub, tmp_path)
        until(guarded.is_well)
        pids = container_pids(stub, guarded.row["id"])
        [pid] = [pid for pid in pids if victim.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(pid, signal.SIGKILL)
        assert stub.wait(guarded.row["id"], "exited")["status_msg"] == status
        until(lambda guarded=guarded: not container_pids(stub, guarded.row["id"]))


def test_no_secret_is_in_vllms_environment_or_on_a_command_line(stub, tmp_path):
    guarded = Guarded(stub, tmp_path)
    until(guarded.is_well)
    for pid in container_pids(stub, guarded.row["id"]):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"sesame" not in command
        if b"emulator.stub" in command:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"sesame" not in environment
            assert guarded.identity.secret.encode() not in environment


def test_plain_http_at_the_port_gets_no_answer(stub, tmp_path):
    guarded = Guarded(stub, tmp_path)
    until(guarded.is_well)
    with pytest.raises(requests.ConnectionError):
        requests.get(endpoint(guarded.row), timeout=5)
    assert ssl.get_server_certificate((guarded.row["public_ipaddr"].strip(), int(guarded.url.rpartition(":")[2])))
