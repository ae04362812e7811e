"""`ops status --serve` on a real socket: what it answers, to whom, and for how long."""

import contextlib
import socket
import threading
import time

import pytest
import requests

from ops.exits import ERROR, OpsError
from ops.status_server import StatusServer


@contextlib.contextmanager
def serving(make=lambda: "<h1>Rerankers</h1>", **options):
    with StatusServer(0, make, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def test_the_page_is_answered_to_this_machine_alone_and_may_load_nothing():
    with serving() as server:
        assert server.server_address[0] == "127.0.0.1"
        answer = requests.get(server.url, timeout=5)
    assert (answer.status_code, answer.text) == (200, "<h1>Rerankers</h1>")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("[::1]:1", 200), ("evil.test", 421), ("10.0.0.1", 421), ("", 421)]
)
def test_a_name_that_is_not_this_machines_own_is_refused(host, status):
    with serving() as server:
        assert requests.get(server.url, headers={"Host": host}, timeout=5).status_code == status


def test_a_request_without_a_host_or_with_two_is_refused():
    with serving() as server:
        for lines in (b"", b"Host: localhost\r\nHost: evil.test\r\n"):
            with socket.create_connection(server.server_address, 5) as line:
                line.sendall(b"GET / HTTP/1.0\r\n" + lines + b"\r\n")
                assert b" 421 " in line.recv(100)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_but_get_is_taken(method):
    with serving() as server:
        assert requests.request(method, server.url, timeout=5).status_code == 501


def test_there_is_one_page():
    with serving() as server:
        assert requests.get(f"{server.url}state", timeout=5).status_code == 404


def test_a_page_is_made_once_for_all_that_ask_at_the_same_time():
    made = []
    with serving(lambda: made.append(1) or "x") as server:
        assert [requests.get(server.url, timeout=5).text for _ in range(3)] == ["x"] * 3
    assert made == [1]


def test_what_cannot_be_made_is_said_and_the_next_request_tries_again():
    errors = [OpsError(ERROR, "the backend <b>is away</b>")]

    def make():
        if errors:
            raise errors.pop()
        return "here"

    with serving(make) as server:
        first, second = (requests.get(server.url, timeout=5) for _ in range(2))
    assert first.status_code == 503
    assert "the backend &lt;b&gt;is away" in first.text
    assert (second.status_code, second.text) == (200, "here")


def test_who_sends_nothing_or_byte_by_byte_is_cut_at_the_deadline_and_holds_up_nobody():
    with serving(deadline_s=0.5) as server, socket.create_connection(server.server_address, 5) as slow:
        began = time.monotonic()
        slow.sendall(b"GET / HT")
        assert requests.get(server.url, timeout=5).status_code == 200
        assert slow.recv(10) == b""
        assert 0.3 < time.monotonic() - began < 4
