"""A real Caddy on loopback, and rerankers over real TLS behind the real guard."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from components.caddy.spec import Certificate, GatewayPolicy, GatewaySpec, Upstream
from components.errors import ServingError
from components.vast.identity import DOMAIN, Authority
from components.vllm.client import RerankClient
from emulator.runtime import free_port
from harness.caddy import running, running_front_proxy
from harness.load import BODY
from harness.wait import until
from reranker.http import HttpTransport
from tests.gateway.upstream import MODEL, READINESS

REPO = Path(__file__).resolve().parents[2]
# the address in the rerankers' certificates: another one, so that the gateway must verify the name
OTHER_IP = "192.0.2.1"
QUICK = GatewayPolicy(check_every_s=0.5, response_timeout_s=10, retry_for_s=10, passive_for_s=2, max_bytes=20_000)


@dataclass
class Reranker:
    """One upstream process, and files that change its answers. `temp`: the folder for its temporary files."""

    folder: Path
    port: int
    key: str
    temp: str
    process: subprocess.Popen | None = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def name(self):
        return self.folder.name

    @property
    def server_name(self):
        return f"{self.name}.{DOMAIN}"

    @property
    def upstream(self):
        return Upstream(self.address, self.key, self.server_name)

    def start(self):
        argv = [sys.executable, "-m", "tests.gateway.upstream", str(self.folder), str(self.port)]
        # killed, it deletes none of its files: they are in the fixture's folder
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": self.temp}
        self.process = subprocess.Popen(argv, cwd=REPO, env=env)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def set_status(self, status):
        (self.folder / "status").write_text(str(status))

    def clear_status(self):
        (self.folder / "status").unlink()

    def requests(self):
        path = self.folder / "requests.jsonl"
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="session")
def authority():
    return Authority.make("the stack's CA", ["127.0.0.0/8"])


@pytest.fixture
def rerankers(tmp_path, authority):
    """Return a function that starts rerankers with separate names and keys, and waits until they score.

    `key`: the same key for all of them; `ip`: the address in their certificates.
    """
    started = []

    def start(count, key="", ip=OTHER_IP):
        new = []
        for _ in range(count):
            folder = tmp_path / f"reranker-{len(started)}"
            folder.mkdir()
            reranker = Reranker(folder, free_port("127.0.0.1"), key or secrets.token_hex(32), temp)
            certificate, private_key = authority.issue(ip, reranker.server_name).pem()
            (folder / "cert.pem").write_text(certificate)
            (folder / "key.pem").write_text(private_key)
            (folder / "key").write_text(reranker.key)
            reranker.start()
            started.append(reranker)
            new.append(reranker)
        for reranker in new:
            transport = HttpTransport(ca=authority.certificate, server_name=reranker.server_name)
            client = RerankClient(f"https://{reranker.address}", reranker.key, transport=transport, timeout_s=5)
            until(lambda client=client: scores(client))
        return new

    with TemporaryDirectory(prefix="rerankers-") as temp:  # not in tmp_path: a socket's path has at most 107 bytes
        yield start
        for reranker in started:
            reranker.kill()


@pytest.fixture
def caddy(tmp_path):
    with running(tmp_path / "caddy") as process:
        yield process


@dataclass
class Front:
    """A gateway's public side."""

    gateway: GatewaySpec
    ca: str
    url: str
    key: str
    certificate: Certificate | None = None
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method="POST", path="/rerank", key=None, *, delay_s=0.0, **options):
        """Send a request on a new connection: a reload of Caddy closes idle ones, also while a request is on its way.

        `key`: None for the correct one, "" for none. `delay_s`: delay of the answer.
        """
        key = self.key if key is None else key
        headers = ({"Authorization": f"Bearer {key}"} if key else {}) | options.pop("headers", {})
        headers["Connection"] = "close"
        body = BODY | {"query": f"{BODY['query']} (answer after {delay_s} s)"} if delay_s else BODY
        options.setdefault("json", body if method == "POST" and "data" not in options else None)
        return self.session.request(method, self.url + path, headers=headers, verify=self.ca, timeout=30, **options)


@pytest.fixture
def front(tmp_path, authority):
    """Return a function that describes a gateway in front of rerankers. With `tiers` 2 it starts a front proxy for it;
    otherwise clients connect to the gateway directly."""
    with contextlib.ExitStack() as stack:

        def make(rerankers, *, tiers=2, **changes):
            ca = tmp_path / "gateway-ca.pem"
            ca.write_text(authority.certificate)
            if tiers == 2:
                proxy = stack.enter_context(running_front_proxy(tmp_path / "f", authority))
                listen, url, certificate = proxy.listen, proxy.url, None
            else:
                listen = f"127.0.0.1:{free_port('127.0.0.1')}"
                url, certificate = f"https://{listen}", Certificate(*authority.issue("127.0.0.1").pem())
            key = secrets.token_hex(32)
            gateway = GatewaySpec(
                **{
                    "site": "test",
                    "listen": listen,
                    "inbound_keys": (key,),
                    "upstreams": tuple(reranker.upstream for reranker in rerankers),
                    "readiness": READINESS,
                    "upstream_ca": authority.certificate,
                    "certificate": certificate,
                    "policy": QUICK,
                    "hop_key": secrets.token_hex(32),
                }
                | changes
            )
            return Front(gateway, str(ca), url, key, certificate)

        yield make


def scores(client):
    try:
        return client.rerank("q", ["d"], MODEL)
    except ServingError:
        return None


def scrape_metrics(caddy):
    """Return the metrics of a Caddy from its admin API."""
    return HttpTransport(unix_socket=caddy.admin_socket)("GET", "http://localhost/metrics", timeout_s=10).text
