"""Who has only the address of a gateway: what it can hold of memory and connections."""

import contextlib
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from components.caddy.config import gateway_config
from harness.caddy import running_front_proxy
from harness.wait import ended_within, until
from tests.gateway.conftest import QUICK, Front

HASTY = replace(QUICK, header_timeout_s=1.5, body_timeout_s=3, max_bytes=16 << 20)
HELD, MIB = 16, b"x" * (1 << 20)


def rss_mb(caddy):
    status = Path(f"/proc/{caddy.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.fixture(params=["directly", "through the front"])
def site(request, caddy, rerankers, front, tmp_path, authority):
    """A gateway of small deadlines, and the process that anyone reaches."""
    if request.param == "directly":
        one = front(rerankers(1), tiers=1, policy=HASTY)
        caddy.admin.load(gateway_config(one.gateway))
        until(lambda: one.ask().status_code == 200)
        yield one, caddy
        return
    with running_front_proxy(tmp_path / "g", authority, HASTY) as proxy:
        inner = front(rerankers(1), tiers=1, listen=proxy.listen, certificate=None, policy=HASTY)
        one = Front(inner.gateway, proxy.ca_file, proxy.url, inner.key)
        caddy.admin.load(gateway_config(one.gateway))
        until(lambda: one.ask().status_code == 200)
        yield one, proxy.caddy


def connected(one):
    host, port = one.url.removeprefix("https://").split(":")
    context = ssl.create_default_context(cafile=one.ca)
    return context.wrap_socket(socket.create_connection((host, int(port)), 10), server_hostname=host)


def sent(connection, head, body=b""):
    """Send what is taken of it, and return the connection."""
    with contextlib.suppress(OSError):
        connection.sendall(head + body)
    return connection


def head(one, *lines):
    host = one.url.removeprefix("https://")
    return "\r\n".join(["POST /rerank HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


@pytest.mark.parametrize("length", [f"Content-Length: {15 << 20}", "Transfer-Encoding: chunked"])
def test_bodies_without_a_key_take_no_memory_and_their_connections_end(site, length):
    one, process = site
    before = rss_mb(process)
    body = b"%x\r\n" % len(MIB * 4) if "chunked" in length else b""
    held = [sent(connected(one), head(one, length), body + MIB * 4) for _ in range(HELD)]
    assert rss_mb(process) - before < 20
    assert one.ask().status_code == 200
    until(lambda: all(ended_within(each, 0.01) for each in held), within_s=10)
    assert rss_mb(process) - before < 20


@pytest.mark.parametrize(
    "said", [b"POST /rerank HTTP/1.1\r\nHost: x\r\nX-A: ", b"", b"POST /rerank HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
)
def test_what_is_sent_by_half_is_cut_off_at_its_deadline(site, said):
    one, _ = site
    held = [sent(connected(one), said) for _ in range(HELD)]
    assert one.ask().status_code == 200
    until(lambda: all(ended_within(each, 0.01) for each in held), within_s=10)


def test_a_body_with_a_key_has_its_deadline_too(site):
    one, _ = site
    held = sent(connected(one), head(one, f"Authorization: Bearer {one.key}", "Content-Length: 5000"), b"{")
    until(lambda: ended_within(held, 0.01), within_s=10)
    assert one.ask().status_code == 200


def test_a_header_over_the_bound_is_refused(site):
    one, _ = site
    assert one.ask(headers={"X-Long": "x" * (64 << 10)}).status_code == 431


def test_an_answer_that_takes_longer_than_a_body_may_arrives(site):
    one, _ = site
    answer = one.ask(delay_s=4)
    assert (answer.status_code, answer.elapsed.total_seconds() > 4) == (200, True)


def test_a_second_authorization_header_is_refused_with_either_first(site):
    one, _ = site
    for keys in (("wrong", one.key), (one.key, "wrong"), (one.key, one.key), ("", one.key)):
        lines = [f"Authorization: Bearer {key}" for key in keys]
        with sent(connected(one), head(one, *lines, "Content-Length: 2"), b"{}") as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 401"), keys
