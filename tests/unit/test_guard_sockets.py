"""The guard through a socket. Raw bytes: odd targets and methods, two lengths, broken chunks, hidden requests.

Seeded, so that a failure comes again.
"""

import itertools
import json
import random
import re
import socket

import pytest
import requests

from components.guard.connection import Bounds
from components.guard.keys import parse
from components.guard.rules import ALLOW
from harness.guard import guarded
from reranker.http import HttpTransport, bearer
from tests.unit.guard_requests import DIGESTS, KEY, KEYS, OPTIONS, App

CASES = 500
UNLIMITED = Bounds(without_key_burst=10**6)  # no limit on connections without a key
AUTH = b"Authorization: Bearer " + KEY
TARGETS = rb"""/rerank //rerank /rerank/ /%2Frerank /%72erank /rerank%00 /rerank;x /RERANK /x/../rerank http://h/rerank
http://h//rerank http:///rerank * /rerank?a=/health /health /health/../rerank /health?x=/rerank /health#/rerank /rerank#
/v1/models /docs /routes rerank h:80 /health%2f..%2frerank /./rerank \rerank /metrics/ /v1//rerank""".split()
METHODS = b"POST GET HEAD OPTIONS CONNECT post PUT TRACE PRI QUERY G\x00T DELETE".split()
VERSIONS = b"HTTP/1.1 HTTP/1.0 HTTP/2.0 HTTP/3 http/1.1".split()
EXTRA = [
    b"Expect: 100-continue",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA",
    b"Cookie: authorization=Bearer " + KEY,
    b"X-Api-Key: " + KEY,
    b"Proxy-Authorization: Bearer " + KEY,
    b"X-Forwarded-Prefix: /rerank",
    b"X-Original-URL: /rerank",
    b"X-Rewrite-URL: /rerank",
    b"X-HTTP-Method-Override: POST",
    b"Connection: close",
    b"Connection: Authorization",
    b"Authorization\t: Bearer " + KEY,
    b"X: y\r\n Authorization: Bearer " + KEY,
    b"X: y\nAuthorization: Bearer wrong",
    b"X: y\rAuthorization: Bearer " + KEY,
    b"Authorization: Basic " + KEY,
    b"Authorization: Bearer " + KEY + b"\x00",
]
HIDDEN = [
    b"POST /rerank HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /docs HTTP/1.1\r\nHost: h\r\n\r\n",
    b"0\r\n\r\nPOST /rerank HTTP/1.1\r\nHost: h\r\n\r\n",
]
# What ends the headers, with a body or what claims to be one; %s is a hidden request.
FRAMES = [
    b"Content-Length: 2\r\n\r\n{}%s",
    b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}%s",
    b"Content-Length: 2, 2\r\n\r\n{}%s",
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n%s",
    b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nAuthorization: Bearer wrong\r\n\r\n%s",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n%s",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s",
    b"Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\n{}%s",
    b"Transfer-Encoding: chunked, identity\r\nContent-Length: 2\r\n\r\n{}%s",
    b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}%s",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n%s",
    b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n%s",
    b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n%s",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n%s",
    b"Content-Length: -2\r\n\r\n%s",
    b"Content-Length: +2\r\n\r\n{}%s",
    b"Content-Length: 99999999999999999999\r\n\r\n%s",
    b"Content-Length: 100\r\n\r\n%s",
    b"\r\n%s",
    b"\n\n%s",
]


class Listening:
    """The guard on a loopback socket, in front of an application that remembers what reached it."""

    def __init__(self, options=OPTIONS, *, bounds=UNLIMITED, **kwargs):
        self.app = App()
        self.guarded = guarded(self.app, KEYS[0], options, bounds=bounds, **kwargs)

    def __enter__(self):
        self.guard = self.guarded.__enter__()
        self.guard.server.gate.keys.set(parse(json.dumps({"keys": [{"name": "client", "sha256": DIGESTS[1]}]})))
        self.address = self.guard.address
        self.app.reached.clear()
        return self

    def __exit__(self, *error):
        self.guarded.__exit__(*error)

    def say(self, raw, answers=0):
        """Send bytes; return what comes back until the server closes, or waits for more and is quiet.

        `answers` is how many will come: the end of the last is then waited for, however slow this machine is.
        """
        self.app.reached.clear()
        got = b""
        with socket.create_connection(self.address, timeout=5) as line:
            line.sendall(raw)
            try:
                while got.count(b"\r\n\r\n") < answers and (chunk := line.recv(65536)):
                    got += chunk
                line.settimeout(0.03)
                while chunk := line.recv(65536):
                    got += chunk
            except (TimeoutError, ConnectionError):
                pass
        return got


@pytest.fixture(scope="module")
def listening():
    with Listening() as server:
        yield server


def may_have_come_in(reached, raw):
    """Whether requests had a right to reach vLLM: an allowed path each, and a header line with a valid key for each."""
    paths = [scope["path"] for scope, _ in reached]
    keyed = [path for path in paths if path != "/health"]
    lines = len(re.findall(rb"(?m)^Authorization: Bearer " + KEY + rb"\r$", raw))
    return set(keyed) <= {*ALLOW, "/metrics"} and len(keyed) <= lines


def statuses(answers):
    """Return the statuses of a run of answers, each of which has to be complete and well-formed."""
    found = []
    while answers:
        head, blank, rest = answers.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [\x20-\x7e]*", first)
        assert blank, answers
        assert status, answers
        found.append(int(status[1]))
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"content-length" not in headers and found[-1] >= 200:
            return found  # ends with the connection
        # an answer to HEAD has no body; no body of these servers begins as an answer does
        answers = rest if rest.startswith(b"HTTP/1.1 ") else rest[int(headers.get(b"content-length", b"0")) :]
    return found


def spoken(dice):
    """Return the bytes of a request, with a key or without, and of what is hidden in or behind its body."""
    line = b"POST /rerank HTTP/1.1"
    if dice.random() < 0.6:
        line = b" ".join([dice.choice(METHODS), dice.choice(TARGETS), dice.choice(VERSIONS[:2] * 3 + VERSIONS)])
    headers = [b"Host: h", *dice.sample(EXTRA, dice.choice([0, 0, 1, 2])), *([AUTH] if dice.random() < 0.5 else [])]
    frame = dice.choice([FRAMES[0], FRAMES[3]] * 6 + FRAMES)  # half of them are valid
    return b"\r\n".join([line, *headers, frame % dice.choice([b"", *HIDDEN])])


def test_no_bytes_on_the_socket_get_past_the_guard(listening):
    dice, came_in, refused = random.Random(32), 0, 0
    for _ in range(CASES):
        raw = spoken(dice)
        found = statuses(listening.say(raw))
        came_in += bool(listening.app.reached)
        refused += bool(found) and not listening.app.reached
        assert not [status for status in found if status >= 500], raw
        assert found.count(299) <= len(listening.app.reached), raw
        assert may_have_come_in(listening.app.reached, raw), raw
    assert came_in > CASES / 20  # both really happened
    assert refused > CASES / 5


def test_every_way_to_frame_a_request_without_a_key_ends_in_a_refusal(listening):
    for frame, hidden in itertools.product(FRAMES, HIDDEN):
        raw = b"POST /rerank HTTP/1.1\r\nHost: h\r\n" + frame % hidden
        assert set(statuses(listening.say(raw))) <= {400, 401, 404}, raw
        assert not listening.app.reached, raw


def test_a_request_inside_or_behind_a_refused_one_needs_a_key_of_its_own(listening):
    hidden = HIDDEN[0]
    refused = b"POST /rerank HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    keyed = hidden.replace(b"Host: h", b"Host: h\r\n" + AUTH)
    assert statuses(listening.say(refused + hidden, 2)) == [401, 401]
    assert not listening.app.reached
    assert statuses(listening.say(keyed + hidden, 2)) == [299, 401]
    assert len(listening.app.reached) == 1
    assert statuses(listening.say(refused + keyed, 2)) == [401, 299]


def test_a_body_is_not_asked_for_before_the_key_is_seen(listening):
    head = b"POST /rerank HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
    assert statuses(listening.say(head + b"\r\n", 1)) == [401]
    assert statuses(listening.say(head + AUTH + b"\r\n\r\n{}", 1)) == [299]  # the body has come already
    with socket.create_connection(listening.address, timeout=5) as line:
        line.sendall(head + AUTH + b"\r\n\r\n")
        assert statuses(line.recv(4096)) == [100]
        line.sendall(b"{}")
        assert statuses(line.recv(4096)) == [299]


def test_a_body_larger_than_allowed_is_refused_while_it_still_comes(listening):
    head = b"POST /rerank HTTP/1.1\r\nHost: h\r\n" + AUTH + b"\r\n"
    assert statuses(listening.say(head + b"Content-Length: 100000\r\n\r\n", 1)) == [413]
    chunk = b"7d0\r\n" + b"x" * 2000 + b"\r\n"
    assert statuses(listening.say(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2, 1)) == [413]
    assert not listening.app.reached


@pytest.mark.parametrize("mib", [1, 60])
def test_the_413_of_a_body_far_over_the_limit_can_be_read(listening, mib):
    url = "http://{}:{}/rerank".format(*listening.address)
    answer = HttpTransport()("POST", url, body=b"x" * (mib << 20), headers=bearer(KEY.decode()), timeout_s=20)
    assert (answer.status, answer.json()["error"]["type"]) == (413, "RequestTooLarge")
    answer = requests.post(url, data=b"x" * (mib << 20), headers=bearer(KEY.decode()), timeout=20)
    assert answer.status_code == 413
