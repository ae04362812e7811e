"""An emulator for the tests of a module, and the unmodified official CLI pointed at it."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from emulator.server import DEFAULT_KEY, EmulatorServer
from tests.emulator.client import Client

GUIDE = "compute_cap>=750 gpu_ram>=16 num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PORTS = "-p 8000:8000 -e VLLM_API_KEY=abc"


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    with EmulatorServer(runtime="stub", time="instant", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield server


@dataclass
class Cli:
    """The official `vastai` command, in a home of its own."""

    url: str
    home: Path
    key: str = DEFAULT_KEY

    def __call__(self, *args, stdin=""):
        command = [str(Path(sys.executable).parent / "vastai"), "--url", self.url, "--api-key", self.key, *args]
        env = {
            "PATH": "/usr/bin:/bin",
            "COLUMNS": "300",
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home),
            "VASTAI_NO_UPDATE_CHECK": "1",
        }
        return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def json(self, *args):
        done = self(*args, "--raw")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def vastai(market, tmp_path_factory):
    return Cli(market.url, tmp_path_factory.mktemp("home"))


class Api:
    """The API and the control API, without a client of ours in between."""

    def __init__(self, url, key=DEFAULT_KEY):
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"}

    def __call__(self, method, path, body=None, **options):
        return requests.request(method, self.url + path, json=body, headers=self.headers, timeout=15, **options)

    def offers(self, **query):
        return self("POST", "/api/v0/bundles/", query).json()["offers"]

    def rent(self, offer=None, **body):
        """Rent an offer (by default one with room); return its contract's id."""
        offer = offer or next(one for one in self.offers(num_gpus={"eq": 1}) if one["disk_space"] > 60)
        body = {
            "image": "vllm/vllm-openai:v0.19.1",
            "disk": 20,
            "env": {"-p 8000:8000": "1"},
            "runtype": "args",
            "args": ["--model", MODEL],
        } | body
        return self("PUT", f"/api/v0/asks/{offer['id']}/", body).json()["new_contract"]

    def instance(self, instance_id):
        return self("GET", f"/api/v0/instances/{instance_id}/").json()["instances"]

    def running(self, instance_id):
        return until(lambda: (row := self.instance(instance_id)) and row["actual_status"] == "running" and row)

    def control(self, path, **body):
        answer = requests.post(f"{self.url}/_emulator/{path}", json=body, timeout=15)
        assert answer.ok, answer.text
        return answer.json()

    def ledger(self):
        rows = requests.get(f"{self.url}/_emulator/ledger", timeout=15).json()["contracts"]
        return {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def api(market):
    return Api(market.url)


def address(row, port=8000):
    return f"http://{row['public_ipaddr'].strip()}:{row['ports'][f'{port}/tcp'][0]['HostPort']}"


def until(condition, *, within_s=60.0):
    """Wait for a condition with a deadline; return its value."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not so after {within_s} s"
        time.sleep(0.03)
    return value


# ---- for tests of the wire and of faults: the market as on the first day, for every test


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with EmulatorServer(runtime="none", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield Client(server.url, folder=server.folder)


@pytest.fixture
def vast(shared):
    """A market whose containers are bookkeeping, as on the first day."""
    shared.control("reset")
    return shared


@pytest.fixture(scope="module")
def shared_stub(tmp_path_factory):
    with EmulatorServer(runtime="stub", state_dir=tmp_path_factory.mktemp("emulator")) as server:
        yield Client(server.url, folder=server.folder)


@pytest.fixture
def stub(shared_stub):
    """A market whose containers are processes that speak as vLLM does."""
    yield shared_stub
    shared_stub.control("reset")
