"""HTTP messages of the guard's connections: as they arrive, what is held, and what a parser must not be led to."""

import asyncio
import socket
import time

import httptools
import pytest

from components.guard.connection import Bounds
from components.guard.messages import MAX_HELD_BYTES, MAX_MESSAGES, MessageStream
from components.guard.upstream import VllmConnection, VllmUpstream
from harness.guard import guarded
from harness.wait import until
from tests.unit.guard_requests import KEYS, App, Streaming
from tests.unit.test_guard_sockets import AUTH, HIDDEN, Listening, statuses

HEAD = b"POST /rerank HTTP/1.1\r\nHost: h\r\n" + AUTH + b"\r\n"
H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


class Transport:
    """Records whether reading is paused."""

    def __init__(self):
        self.is_paused = False

    def pause_reading(self):
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self):
        assert self.is_paused
        self.is_paused = False


class Requests(MessageStream):
    def __init__(self):
        super().__init__()
        self.parser = httptools.HttpRequestParser(self)
        self.transport = Transport()

    def invalid(self):
        return ValueError("too long" if self.is_too_long else "invalid")


@pytest.fixture(scope="module")
def listening():
    with Listening() as server:
        yield server


def read(stream, *parts):
    """Feed the parts; return name and body of each message."""

    async def all_messages():
        found = []
        for part in parts:
            stream.data_received(part)
        while stream.messages:
            message, body = await stream.head(), b""
            while piece := await stream.part(message):
                body += piece
            found.append((dict(message.headers), body))
            stream.finish_message()
        return found

    return asyncio.run(all_messages())


def test_messages_are_the_same_in_one_part_and_byte_by_byte():
    chunks = b"2;x=y\r\nde\r\n1\r\nf\r\n0\r\nAuthorization: no\r\n\r\n"
    raw = HEAD + b"Content-Length: 3\r\n\r\nabc" + HEAD + CHUNKED + chunks
    whole = read(Requests(), raw)
    assert [body for _, body in whole] == [b"abc", b"def"]
    assert [headers[b"authorization"] for headers, _ in whole] == [AUTH.partition(b": ")[2]] * 2
    assert read(Requests(), *(raw[at : at + 1] for at in range(len(raw)))) == whole


@pytest.mark.parametrize(
    "endless",
    [
        HEAD + b"X: " + b"x" * (1 << 20),
        HEAD + b"a:\r\n" * 4000,
        b"\r\n" * (1 << 19),
        HEAD + CHUNKED + b"1;" + b"x" * (1 << 20),
        HEAD + CHUNKED + b"0\r\n" + b"X: y\r\n" * (1 << 16),
    ],
    ids=["a header", "many headers", "empty lines", "a chunk's extension", "trailers"],
)
def test_what_makes_no_progress_ends(endless):
    stream = Requests()
    for at in range(0, len(endless), 1000):
        stream.data_received(endless[at : at + 1000])
        if stream.is_too_long:
            break
    assert stream.received_bytes < 32 << 10
    with pytest.raises(ValueError, match="too long"):
        asyncio.run(stream.arrival())


def test_requests_that_come_at_once_are_held_in_a_small_number():
    stream = Requests()
    stream.data_received(b"GET / HTTP/1.1\r\n\r\n" * 10_000)
    assert len(stream.messages) == MAX_MESSAGES
    assert stream.is_invalid


def test_a_response_that_nobody_asked_for_is_not_the_next_requests(tmp_path):
    """A server that sends a second response to the first request."""
    answer, path = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", str(tmp_path / "socket")

    async def ask_twice():
        served, writers = 0, []

        async def serve(reader, writer):
            nonlocal served
            writers.append(writer)
            while await reader.read(65536):
                served += 1
                writer.write(answer + b"own %d" % served)
            writer.close()

        async with await asyncio.start_unix_server(serve, path):
            upstream = VllmUpstream(path)
            async with upstream.ask("GET", "/health") as response:
                found = [part async for part in response.parts()]
            (idle,) = upstream._idle
            writers[0].write(answer + b"other")
            async with asyncio.timeout(10):
                await idle.head()
            async with upstream.ask("GET", "/health") as response:
                found += [part async for part in response.parts()]
            for connection in upstream._idle:
                connection.close()
            return found

    assert asyncio.run(ask_twice()) == [b"own 1", b"own 2"]


def test_reading_pauses_until_the_body_is_taken():
    stream = Requests()
    stream.data_received(HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * MAX_HELD_BYTES)
    assert not stream.transport.is_paused
    stream.data_received(b"x" * 200_000)
    assert stream.transport.is_paused
    taken = 0
    while stream.transport.is_paused:
        taken += len(stream.take(stream.messages[0]))
    taken += len(stream.take(stream.messages[0]))
    assert taken == MAX_HELD_BYTES + 200_000


def test_reading_pauses_while_bytes_come_behind_a_request_at_vllm():
    class Waiting(App):
        async def __call__(self, scope, receive, send):
            if scope["path"] != "/openapi.json":
                await asyncio.sleep(30)
            await super().__call__(scope, receive, send)

    with guarded(Waiting(), KEYS[0]) as guard, socket.create_connection(guard.address, timeout=1) as line:
        line.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
        until(lambda: any(connection.task_at_vllm for connection in guard.server.connections))
        with pytest.raises(TimeoutError):
            line.sendall(b"x" * (64 << 20))
        (connection,) = guard.server.connections
        assert connection.received_bytes < 1 << 20


@pytest.mark.parametrize("frame", [b"Content-Length: 2\r\n\r\n{}", CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"])
@pytest.mark.parametrize("upgrade", [H2C, H2C.replace(b"Upgrade, ", b"close, Upgrade, ")], ids=["", "and close"])
def test_an_upgrade_is_ignored_and_its_body_is_a_body(listening, upgrade, frame):
    assert statuses(listening.say(HEAD + upgrade + frame, 1)) == [299]
    assert [body for _, body in listening.app.reached] == [b"{}"]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_follows_an_upgrade_is_not_a_request(listening, hidden):
    keyed = hidden.replace(b"Host: h", b"Host: h\r\n" + AUTH)
    body = b"Content-Length: %d\r\n\r\n%s" % (len(keyed), keyed)
    assert statuses(listening.say(HEAD + H2C + body + keyed, 1)) == [400]
    assert statuses(listening.say(HEAD + H2C + b"\r\n" + keyed, 1)) == [400]
    assert not listening.app.reached


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
        HEAD.replace(b"1.1", b"2.0") + b"Content-Length: 2\r\n\r\n{}",
        HEAD.replace(b"Host: h\r\n", b"") + b"Content-Length: 2\r\n\r\n{}",
        HEAD + b"Host: i\r\nContent-Length: 2\r\n\r\n{}",
        HEAD.replace(b"POST", b"CONNECT") + b"Content-Length: 2\r\n\r\n{}",
        HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
        HEAD + b"X: y\r\n z\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X : y\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_servers_read_differently_is_400_and_what_follows_is_not_read(listening, raw):
    keyed = HEAD + b"Content-Length: 2\r\n\r\n{}"
    for behind in (b"", keyed):
        assert statuses(listening.say(raw + behind, 1)) == [400]
        assert not listening.app.reached


@pytest.mark.parametrize("size", [150_000, 250_000, 1_000_000])
@pytest.mark.parametrize("key", [b"", AUTH + b"\r\n"], ids=["without a key", "with a key"])
def test_a_refused_body_that_has_come_is_read_at_once_and_the_next_request_is_served(listening, size, key):
    head = b"POST /rerank HTTP/1.1\r\nHost: h\r\n" + key
    expected = [413 if key else 401, 299]
    if size > Bounds.drain_bytes_without_key and not key:
        expected = [401]
    start = time.monotonic()
    raw = head + b"Content-Length: %d\r\n\r\n" % size + b"x" * size + HEAD + b"Content-Length: 2\r\n\r\n{}"
    assert statuses(listening.say(raw, len(expected))) == expected
    assert time.monotonic() - start < Bounds.quiet_s


@pytest.mark.parametrize(("digits", "status"), [(b"0" * 4400 + b"2", 299), (b"9" * 4400, 400)])
def test_a_length_of_thousands_of_digits_is_answered(listening, digits, status):
    assert statuses(listening.say(HEAD + b"Content-Length: " + digits + b"\r\n\r\n{}", 1)) == [status]


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n", b"Connection: keep-alive, close\r\n"])
def test_a_connection_of_http_1_0_ends_after_its_answer_and_gets_no_100(listening, connection):
    head = HEAD.replace(b"1.1", b"1.0") + connection + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(listening.address, timeout=5) as line:
        line.sendall(head)
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(10)
        line.sendall(b"{}")
        line.settimeout(5)
        answer = b""
        while chunk := line.recv(65536):
            answer += chunk
    assert statuses(answer) == [299]
    assert b"connection: close" in answer


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_without_a_length_ends_as_its_client_can_read(version):
    server = Streaming(b"one", b"", b"two")
    with guarded(server, KEYS[0]) as guard, socket.create_connection(guard.address, timeout=5) as line:
        line.sendall(HEAD.replace(b"1.1", version) + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        answer = b""
        while chunk := line.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    if version == b"1.1":
        parser = VllmConnection()
        assert read(parser, answer)[0][1] == b"onetwo"
    else:
        assert (b"chunked" in head, body) == (False, b"onetwo")


def test_informational_responses_come_before_the_response():
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for parts in ([raw], [raw[at : at + 1] for at in range(len(raw))]):
        assert read(VllmConnection(), *parts) == [({b"content-length": b"2"}, b"{}")]


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", b"nothing\r\n\r\n"]
)
def test_a_response_that_is_none_is_an_error(raw):
    connection = VllmConnection()
    connection.data_received(raw)
    with pytest.raises(ConnectionResetError, match="not valid"):
        asyncio.run(connection.head())
