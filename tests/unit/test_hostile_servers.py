"""Every HTTP client of the product at every server that means harm: it ends by its deadline, within its bound, and asks
nobody else. The same servers one level below: test_http.
"""

import json
import time

import pytest

from components.caddy.admin import CaddyAdmin
from components.errors import VastError, VastRerankerError
from components.guard.keys import Access, Key
from components.readiness import Readiness
from components.vast.client import VastClient
from components.vast.pacing import OFF, Pacer
from components.vast.probe import HttpProbe
from components.vllm.client import RerankClient
from components.vllm.encryption import check_encryption
from emulator.client import ControlClient, ControlError
from reranker import Endpoint, Patience, Reranker
from reranker import errors as client_errors
from tests.unit.hostile_server import HOSTILE, read_request, reply, server

TIMEOUT_S = 0.4
WITHIN_S = 3.0  # several calls, on a busy machine
KEY = "a-key-that-must-not-leak"
INSIDE = b'{"AccessKeyId": "ASIAEXAMPLE1234", "data": [], "results": [], "ok": true}'
FAILED = (VastRerankerError, client_errors.RerankerError, ControlError, OSError)


def reranker(url):
    patience = Patience(deadline_s=TIMEOUT_S, timeout_s=TIMEOUT_S)
    return Reranker(Endpoint(url, KEY), patience=patience).rerank("q", ["d"])


def vast(url):
    return VastClient(KEY, pacer=Pacer(OFF), api_url=url, timeout_s=TIMEOUT_S, patience_s=0)


def probe(url):
    host, _, port = url.removeprefix("http://").partition(":")
    found = HttpProbe(
        8000, path="/rerank", readiness=Readiness("m", "q", "d", "e", (0.0, 1.0)), timeout_s=TIMEOUT_S
    ).check(host, int(port), {})
    if found.verdict != "ready":
        raise VastError(found.detail)


def encryption(url):
    check = check_encryption(url, "", thorough=False, timeout_s=TIMEOUT_S)[-1]
    raise VastError(check.saw)


CLIENTS = {
    "the client library": reranker,
    "vLLM": lambda url: RerankClient(url, KEY, timeout_s=TIMEOUT_S).rerank("q", ["d"]),
    "vLLM's keys": lambda url: RerankClient(url, KEY, timeout_s=TIMEOUT_S).set_access(Access((Key("a", "0" * 64),))),
    "Vast.ai": lambda url: vast(url).account(),
    "Vast.ai, renting": lambda url: vast(url).destroy(1),
    "Caddy": lambda url: CaddyAdmin(url, key=KEY, timeout_s=TIMEOUT_S).load({}),
    "the probe": probe,
    "the check of TLS": encryption,
    "the emulator's control": lambda url: ControlClient(url, KEY, timeout_s=TIMEOUT_S).post("reset"),
}
CASES = ("drips a header", "drips a body", "endless headers", "one endless header", "300 MB", "a gzip bomb")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES)
def test_each_client_ends_by_its_deadline_and_within_its_bound(client, case):
    began = time.monotonic()
    with server(HOSTILE[case][0]) as url, pytest.raises(FAILED) as caught:
        CLIENTS[client](url)
    assert time.monotonic() - began < WITHIN_S
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("status", [302, 307])
def test_no_client_follows_a_redirect(client, status):
    elsewhere = []

    def inside(line, over):
        elsewhere.append(read_request(line))
        reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(INSIDE), INSIDE))(line, over)

    with server(inside) as other:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {other}/stop\r\nContent-Length: 0\r\n\r\n".encode()
        with server(reply(head)) as url, pytest.raises(FAILED) as caught:
            CLIENTS[client](url)
    assert elsewhere == []
    assert "ASIAEXAMPLE1234" not in str(caught.value)


def log_server(act, where="{own}/blob/x.log"):
    """Return what names an address for a log, and does `act` where that is asked for."""

    def serve(line, over):
        head = read_request(line)
        if b"/request_logs/" not in head:
            act(line, over)
            return
        own = head.split(b"Host: ")[1].split(b"\r\n")[0].decode()
        body = json.dumps({"success": True, "logs": True, "result_url": where.format(own=f"http://{own}")}).encode()
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return serve


@pytest.mark.parametrize("case", CASES)
def test_a_log_ends_by_its_deadline_and_within_its_bound(case):
    began = time.monotonic()
    with server(log_server(HOSTILE[case][0])) as url:
        assert vast(url).logs(1, wait_s=TIMEOUT_S) == ""
    assert time.monotonic() - began < WITHIN_S


@pytest.mark.parametrize(
    "where",
    [
        "{other}/latest/meta-data",
        "https://s3.amazonaws.com/anybody/x.log",
        "https://s3.amazonaws.com@127.0.0.1/vast.ai/x.log",
        "http://s3.amazonaws.com/vast.ai/x.log",
        "https://vast.ai.evil.example/x.log",
        "https://evilvast.ai/x.log",
        "https://console.vast.ai:8443/x.log",
        "{own}.evil.example/x.log",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_log_is_fetched_from_vasts_stores_and_the_api_alone(where):
    elsewhere = []
    with server(lambda line, _over: elsewhere.append(read_request(line))) as other:
        where = where.replace("{other}", other)
        with (
            server(log_server(reply(), where)) as url,
            pytest.raises(VastError, match=r"is not a log store of Vast.ai"),
        ):
            vast(url).logs(1, wait_s=TIMEOUT_S)
    assert elsewhere == []
