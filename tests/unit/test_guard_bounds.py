"""What the guard bounds, for anybody and for clients, with bounds short enough for a test."""

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
import weakref
from itertools import pairwise

import pytest
import requests

from components.guard.connection import Bounds
from components.guard.gate import LARGE_BYTES, Gate
from components.guard.keys import KeyStore
from components.guard.rules import Rules
from components.guard.server import MAX_ADDRESSES, GuardServer
from components.guard.upstream import VllmUpstream
from components.vast.identity import Authority
from emulator.scoring import Served
from emulator.stub import Stub
from harness.guard import guarded
from harness.wait import ended_within, until
from tests.unit.guard_requests import KEYS, App, Streaming
from tests.unit.test_guard_sockets import AUTH, Listening, statuses

HEAD = b"POST /rerank HTTP/1.1\r\nHost: h\r\n"
KEYED = HEAD + AUTH + b"\r\n"
ATTACKER = "127.0.0.2"
SHORT = Bounds(handshake_s=0.3, header_s=0.3, body_s=0.3, idle_s=0.3, send_s=0.5, drain_s=0.3, quiet_s=0.1)


def connect(listening, source="127.0.0.1"):
    return socket.create_connection(listening.address, timeout=5, source_address=(source, 0))


def unverified():
    """Return a client's TLS context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture(scope="module")
def listening():
    with Listening(bounds=SHORT) as server:
        yield server


@pytest.mark.parametrize(
    "said",
    [b"", HEAD[:20], HEAD, KEYED + b"Content-Length: 9\r\n\r\n{", KEYED + b"Content-Length: 2\r\n\r\n{}"],
    ids=["nothing", "half a line", "half a header", "half a body", "a whole request, and no more"],
)
def test_a_connection_that_goes_on_with_nothing_is_ended(listening, said):
    with connect(listening) as line:
        line.sendall(said)
        assert ended_within(line, 3)


def test_a_body_that_does_not_come_is_408_and_reaches_nobody(listening):
    listening.app.reached.clear()
    raw = HEAD + AUTH + b"\r\nContent-Length: 9\r\n\r\n{"
    with connect(listening) as line:
        line.sendall(raw)
        assert statuses(line.recv(4096)) == [408]
    assert not listening.app.reached


def test_a_header_is_cut_off_at_32_kib():
    with Listening() as listening:
        for size, status in ((12 << 10, 299), (32 << 10, 431)):
            raw = HEAD + AUTH + b"\r\nX: " + b"x" * size + b"\r\nContent-Length: 2\r\n\r\n{}"
            assert statuses(listening.say(raw, 1)) == [status]


def test_a_handshake_that_is_not_finished_is_ended():
    identity = Authority.make("test").issue("127.0.0.1").pem()
    with guarded(App(), KEYS[0], identity=identity, bounds=SHORT) as listening, connect(listening) as line:
        line.sendall(b"\x16\x03\x01")
        assert ended_within(line, 3)
        until(lambda: not listening.server.connections)


def test_a_connection_that_is_dropped_as_its_handshake_ends_does_not_make_the_next_one_deaf():
    """Closed too early, its descriptor is the next connection's, of which the loop then hears nothing."""
    context = unverified()
    to_us, to_guard = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls, identity = context.wrap_bio(to_us, to_guard), Authority.make("test").issue("127.0.0.1").pem()
    with guarded(App(), KEYS[0], identity=identity) as guard, connect(guard) as line, socket.socket() as client:
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        line.sendall(to_guard.read())
        while not to_guard.pending:
            to_us.write(line.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()

        async def drop():
            line.sendall(to_guard.read())
            await asyncio.sleep(0)  # the loop reads it, and the handshake has ended
            await asyncio.sleep(0)
            for task in guard.server.connections.values():
                task.cancel()

        guard.in_loop(drop())
        until(lambda: not guard.server.connections)
        client.settimeout(5)
        client.connect(guard.address)
        with context.wrap_socket(client) as heard:
            heard.sendall(KEYED + b"Content-Length: 2\r\n\r\n{}")
            assert statuses(heard.recv(4096)) == [299]


def test_a_refusal_comes_before_the_body_and_is_not_followed_by_all_of_it(listening):
    with connect(listening) as line:
        line.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        assert statuses(line.recv(4096)) == [401]
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            line.sendall(b"x" * (64 << 20))


def test_an_address_without_a_valid_key_is_cut_off_and_a_client_is_not():
    ask = HEAD + AUTH + b"\r\nContent-Length: 2\r\n\r\n{}"
    with (
        Listening(bounds=Bounds(without_key_burst=4, without_key_per_s=0.01)) as listening,
        contextlib.ExitStack() as stack,
    ):
        lines = [stack.enter_context(connect(listening, ATTACKER)) for _ in range(20)]
        for line in lines[4:]:
            assert ended_within(line, 3)
        assert len(listening.guard.server.connections) == 4
        for _ in range(20):
            assert statuses(listening.say(ask, 1)) == [299]


def test_a_request_with_a_valid_key_refills_the_allowance_of_its_address():
    ask = HEAD + AUTH + b"\r\nContent-Length: 2\r\n\r\n{}"
    with Listening(bounds=Bounds(without_key_burst=4, without_key_per_s=0.01)) as listening:
        for _ in range(5):
            for _ in range(3):
                assert statuses(listening.say(HEAD + b"\r\n", 1)) == [401]
            assert statuses(listening.say(ask, 1)) == [299]
        for _ in range(4):
            assert statuses(listening.say(HEAD + b"\r\n", 1)) == [401]
        assert listening.say(ask) == b""


def test_addresses_that_were_quiet_for_long_are_counted_no_more():
    server = GuardServer(Gate(Rules(), KeyStore("", now=time.time), VllmUpstream("")), Bounds(without_key_per_s=1e9))
    for number in range(MAX_ADDRESSES + 10):
        server._allowance(str(number))
    assert len(server.allowances) <= MAX_ADDRESSES


def test_connections_are_limited_in_all_and_a_new_one_takes_the_oldest_ones_place():
    ask = HEAD + AUTH + b"\r\nContent-Length: 2\r\n\r\n{}"
    with Listening(bounds=Bounds(connections=3)) as listening, connect(listening) as client:
        client.sendall(ask)
        assert statuses(client.recv(4096)) == [299]
        lines = [connect(listening, ATTACKER) for _ in range(5)]
        until(lambda: len(listening.guard.server.connections) == 3)
        for line in (lines[-1], client):
            line.sendall(ask)
            assert statuses(line.recv(4096)) == [299]
        assert ended_within(lines[0], 3)
        for line in lines:
            line.close()


def test_who_does_not_read_an_answer_is_cut_off(listening):
    with guarded(Streaming(*[b"x" * (1 << 20)] * 64), KEYS[0], bounds=SHORT) as guard, connect(guard) as line:
        line.sendall(b"GET /v1/models HTTP/1.1\r\nHost: h\r\n" + AUTH + b"\r\n\r\n")
        assert line.recv(10)
        until(lambda: not guard.server.connections, within_s=5)


def test_half_sent_headers_of_hundreds_leave_nothing_and_stop_nobody():
    with Listening(bounds=Bounds(header_s=1)) as listening, contextlib.ExitStack() as stack:
        for line in [stack.enter_context(connect(listening, ATTACKER)) for _ in range(150)]:
            with contextlib.suppress(OSError):  # one that was closed already
                line.sendall(HEAD)
        start = time.monotonic()
        assert statuses(listening.say(HEAD + AUTH + b"\r\nContent-Length: 2\r\n\r\n{}", 1)) == [299]
        assert time.monotonic() - start < 1
        until(lambda: not listening.guard.server.connections, within_s=5)


def test_connections_that_come_at_once_begin_one_in_each_turn_of_the_loop(listening):
    async def connect_and_count():
        lines = [connect(listening) for _ in range(20)]
        counts = [len(listening.guard.server.connections)]
        while counts[-1] < len(lines):
            await asyncio.sleep(0)
            counts.append(len(listening.guard.server.connections))
        for line in lines:
            line.close()
        return counts

    until(lambda: not listening.guard.server.connections)
    counts = listening.guard.in_loop(connect_and_count())
    assert max(later - earlier for earlier, later in pairwise(counts)) <= 2


def test_handshakes_of_one_address_start_one_after_another_and_those_of_another_address_at_once():
    identity, pause_s = Authority.make("test").issue("127.0.0.1").pem(), 0.3
    bounds = Bounds(between_handshakes_s=pause_s, without_key_burst=4, without_key_per_s=0.01)
    context = unverified()
    with guarded(App(), KEYS[0], identity=identity, bounds=bounds) as guard, contextlib.ExitStack() as stack:
        start = time.monotonic()
        lines = [stack.enter_context(connect(guard, ATTACKER)) for _ in range(24)]
        stack.enter_context(context.wrap_socket(connect(guard)))
        for line in lines[4:]:
            assert ended_within(line, 3)
        assert time.monotonic() - start < pause_s
        for number, line in enumerate(lines[:4]):
            stack.enter_context(context.wrap_socket(line))
            assert pause_s * number <= time.monotonic() - start < pause_s * (number + 1)


def test_a_request_with_a_valid_key_ends_the_pause_before_the_next_handshake_of_its_address():
    identity, context = Authority.make("test").issue("127.0.0.1").pem(), unverified()
    with guarded(App(), KEYS[0], identity=identity, bounds=Bounds(between_handshakes_s=20)) as guard:
        for _ in range(3):
            with context.wrap_socket(connect(guard)) as line:
                line.sendall(KEYED + b"Content-Length: 2\r\n\r\n{}")
                assert statuses(line.recv(4096)) == [299]


def test_a_connection_whose_handshake_has_not_started_is_closed_by_a_new_one_at_the_limit():
    identity = Authority.make("test").issue("127.0.0.1").pem()
    bounds = Bounds(between_handshakes_s=60, connections=2)
    with guarded(App(), KEYS[0], identity=identity, bounds=bounds) as guard, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(connect(guard, ATTACKER)) for _ in range(4)]
        for line in lines[:2]:
            assert ended_within(line, 3)
        assert len(guard.server.connections) == 2


def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector():
    context, identity = unverified(), Authority.make("test").issue("127.0.0.1").pem()
    gc.collect()
    gc.disable()
    try:
        with guarded(App(), KEYS[0], identity=identity) as guard:
            references = []
            for _ in range(20):
                with context.wrap_socket(connect(guard)) as line:
                    line.sendall(HEAD)
                    references += map(weakref.ref, list(guard.server.connections))
                with connect(guard) as line:
                    until(lambda: len(guard.server.connections) > 0)
                    references += map(weakref.ref, list(guard.server.connections))
                    line.sendall(HEAD)  # no handshake
            assert references
            until(lambda: not any(reference() for reference in references))
    finally:
        gc.enable()


def test_a_large_body_is_judged_beside_the_loop_and_keeps_nobody_waiting():
    large = b'{"query":"q","documents":[' + b",".join([b"[]"] * (1 << 19)) + b"]}"
    assert len(large) > LARGE_BYTES
    with guarded(Stub(Served(("m",))), KEYS[0], {"max_bytes": 2 << 20}) as guard:
        url, headers = f"http://127.0.0.1:{guard.port}/rerank", {"Authorization": f"Bearer {KEYS[0]}"}
        requests.post(url, data=large, headers=headers, timeout=20)  # the process beside is started
        told = []
        asking = threading.Thread(
            target=lambda: told.append(requests.post(url, data=large, headers=headers, timeout=20).status_code)
        )
        asking.start()
        longest = 0.0
        while asking.is_alive():
            start = time.monotonic()
            guard.in_loop(asyncio.sleep(0))
            longest = max(longest, time.monotonic() - start)
        assert told == [400]
    assert longest < 0.15, "the loop stood still"


@pytest.mark.parametrize(("path", "status"), [("/docs", 404), ("/rerank", 401), ("/v1/models", 401)])
def test_a_head_request_is_answered_without_a_body(listening, path, status):
    answer = requests.head(f"http://{listening.address[0]}:{listening.address[1]}{path}", timeout=5)
    assert (answer.status_code, answer.content) == (status, b"")


def test_a_head_request_with_a_key_gets_vllms_answer_without_a_body(listening):
    headers = dict([AUTH.decode().strip().split(": ")])
    url = f"http://{listening.address[0]}:{listening.address[1]}/v1/models"
    for _ in range(2):
        assert requests.head(url, headers=headers, timeout=5).status_code == 299  # as App answers
