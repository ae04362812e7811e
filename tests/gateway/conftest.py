"""A real Caddy on loopback, rerankers over real TLS behind the real guard, and load on them."""

from __future__ import annotations

import os
import secrets
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from components.caddy.front import front as front_config
from components.caddy.process import Caddy, running
from components.caddy.record import Certificate, Gateway, Policy
from components.errors import ServingError
from components.vast.identity import SERVER_NAME, Authority
from components.vllm.client import RerankClient
from emulator.runtime import free_port
from reranker.http import HttpTransport
from tests.gateway.upstream import MODEL

REPO = Path(__file__).resolve().parents[2]
BODY = {"model": MODEL, "query": "deep learning", "documents": ["deep learning is fun", "pizza"]}
# in the rerankers' certificates, so that only their name tells the gateway that they are the right ones
ELSEWHERE = "192.0.2.1"
QUICK = Policy(check_every_s=0.5, check_timeout_s=5, retry_for_s=10, passive_for_s=2, max_bytes=20_000)


@dataclass
class Reranker:
    """One upstream process and its switches."""

    folder: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def name(self):
        return self.folder.name

    def start(self):
        argv = [sys.executable, "-m", "tests.gateway.upstream", str(self.folder), str(self.port)]
        self.process = subprocess.Popen(argv, cwd=REPO, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def answers(self, status):
        (self.folder / "status").write_text(str(status))

    def recovers(self):
        (self.folder / "status").unlink()

    def seen(self):
        path = self.folder / "seen.jsonl"
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="session")
def authority():
    return Authority.make("the stack's CA")


@pytest.fixture(scope="session")
def upstream_key():
    return secrets.token_hex(32)


@pytest.fixture
def rerankers(tmp_path, authority, upstream_key):
    """Make a function that starts n more rerankers and waits until each scores."""
    started = []

    def start(count):
        new = []
        for _ in range(count):
            folder = tmp_path / f"reranker-{len(started)}"
            folder.mkdir()
            certificate, key = leaf(authority, ip=ELSEWHERE)
            (folder / "cert.pem").write_text(certificate)
            (folder / "key.pem").write_text(key)
            (folder / "key").write_text(upstream_key)
            one = Reranker(folder, free_port("127.0.0.1"))
            one.start()
            started.append(one)
            new.append(one)
        trusting = HttpTransport(ca=authority.certificate, server_name=SERVER_NAME)
        for one in new:
            client = RerankClient(f"https://{one.address}", upstream_key, transport=trusting, timeout_s=5)
            until(lambda client=client: scores(client))
        return new

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def caddy(tmp_path):
    with running(tmp_path / "caddy") as process:
        yield process


@dataclass
class Front:
    """A gateway's public side."""

    gateway: Gateway
    certificate: Certificate
    ca: str
    url: str
    key: str
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method="POST", path="/rerank", key=None, **options):
        """One request; `key` None presents the right one, "" none."""
        key = self.key if key is None else key
        headers = ({"Authorization": f"Bearer {key}"} if key else {}) | options.pop("headers", {})
        options.setdefault("json", BODY if method == "POST" and "data" not in options else None)
        return self.session.request(method, self.url + path, headers=headers, verify=self.ca, timeout=30, **options)


@pytest.fixture
def front(tmp_path, authority, upstream_key):
    """Make a function that describes a gateway in front of rerankers, and how to reach it: with `tiers` 2 through a
    door of its own (a process that is started here), else directly."""
    doors = []

    def make(rerankers, *, tiers=2, **changes):
        certificate = Certificate("pem", *leaf(authority))
        back = tmp_path / "gateway.sock"
        port = free_port("127.0.0.1")
        key = secrets.token_hex(32)
        gateway = Gateway(
            **{
                "site": "test",
                "listen": f"127.0.0.1:{port}" if tiers == 1 else f"unix/{back}|0600",
                "inbound_keys": (key,),
                "upstreams": tuple(one.address for one in rerankers),
                "upstream_key": upstream_key,
                "model": MODEL,
                "upstream_ca": authority.certificate,
                "certificate": certificate if tiers == 1 else None,
                "policy": QUICK,
            }
            | changes
        )
        ca = tmp_path / "gateway-ca.pem"
        ca.write_text(authority.certificate)
        if tiers == 2:
            door = Caddy(tmp_path / f"door-{len(doors)}")
            doors.append(door)
            door.start(front_config(f"127.0.0.1:{port}", str(back), certificate))
        return Front(gateway, certificate, str(ca), f"https://127.0.0.1:{port}", key)

    yield make
    for door in doors:
        door.stop()


def leaf(authority, ip="127.0.0.1"):
    """Return a certificate of the authority for an address, and its key, as PEM."""
    identity = authority.issue(ip)
    body, end = "\n".join(textwrap.wrap(identity.secret, 64)), "-----"
    key = f"-----BEGIN PRIVATE KEY{end}\n{body}\n{end}END PRIVATE KEY{end}\n"
    return ssl.DER_cert_to_PEM_cert(identity.certificate), key


class Load:
    """Steady requests against a gateway from some threads, in a block; what failed is kept."""

    def __init__(self, front, *, per_s=80.0, threads=8, keep_alive=True):
        self.front = front
        self.pause_s = threads / per_s
        self.keep_alive = keep_alive
        self.failures = []
        self.latencies_s = []
        self.by_upstream = {}
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self._lock = threading.Lock()

    def _run(self):
        session = requests.Session()
        session.trust_env = False
        headers = {"Authorization": f"Bearer {self.front.key}"}
        if not self.keep_alive:
            headers["Connection"] = "close"
        at = time.monotonic()
        while not self._end.is_set():
            began = time.monotonic()
            try:
                answer = session.post(
                    f"{self.front.url}/rerank", json=BODY, headers=headers, verify=self.front.ca, timeout=30
                )
                said = answer.status_code if answer.status_code != 200 else ""
                name = answer.headers.get("x-upstream", "")
            except requests.RequestException as error:
                said, name = repr(error), ""
            with self._lock:
                self.latencies_s.append(time.monotonic() - began)
                self.by_upstream[name] = self.by_upstream.get(name, 0) + 1
                if said:
                    self.failures.append(said)
            at += self.pause_s
            time.sleep(max(0.0, at - time.monotonic()))

    def __enter__(self):
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End it; once more does nothing."""
        if self._end.is_set():
            return
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.rate_per_s = len(self.latencies_s) / (time.monotonic() - self.began)

    def more(self, count):
        """Wait for so many more answers."""
        target = len(self.latencies_s) + count
        until(lambda: len(self.latencies_s) >= target)


def scores(client):
    try:
        return client.rerank("q", ["d"], MODEL)
    except ServingError:
        return None


def until(condition, *, within_s=30.0):
    """Wait for a condition with a deadline; return its value."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not so after {within_s} s"
        time.sleep(0.02)
    return value
