"""Which requests the client repeats, how long it waits between them, and when it gives up."""

import asyncio
import json
import socket
import threading
import time

import pytest

from harness.wait import until
from reranker import Busy, Limits, Patience, Reranker, ServerError, Unreachable
from reranker.http import Unanswered
from tests.client.asking import DOCUMENTS, QUERY, Clock, on_clock
from tests.client.guarded import KEY, MODEL, guarded_server, refusal


@pytest.mark.parametrize("fault", [refusal(429), refusal(502), refusal(503), "drop"])
def test_what_may_pass_is_asked_again(server, reranker, fault):
    server.fail(fault, fault)
    assert reranker.rerank(QUERY, DOCUMENTS)[0].index == 3
    assert len(server.requests()) == 3


@pytest.mark.parametrize("status", [400, 404, 405, 500])
def test_what_will_not_pass_is_asked_once(server, reranker, status):
    server.fail(refusal(status, "so it is"))
    with pytest.raises(ServerError, match=f"HTTP {status}: so it is") as caught:
        reranker.rerank(QUERY, DOCUMENTS)
    assert (caught.value.status, caught.value.message) == (status, "so it is")
    assert len(server.requests()) == 1


def test_waits_grow_to_the_longest_and_end_at_the_deadline(server):
    clock = Clock()
    server.fail(*[refusal(503, "loading")] * 50)
    with pytest.raises(Busy, match=r"HTTP 503: loading \(7 attempts\)"):
        on_clock(server, clock).rerank(QUERY, DOCUMENTS)
    assert clock.slept == [1, 2, 4, 4, 4, 4]


def test_chance_shortens_a_wait_by_up_to_half(server):
    clock = Clock()
    server.fail(refusal(503), refusal(503))
    client = Reranker.from_url(
        server.url,
        KEY,
        server.ca,
        clock=clock,
        sleep=clock.sleep,
        chance=lambda: 1.0,
        patience=Patience(first_wait_s=1),
    )
    client.rerank(QUERY, DOCUMENTS)
    assert clock.slept == [0.5, 1.0]


def test_retry_after_is_honoured(server):
    clock = Clock()
    server.fail(refusal(429, retry_after=7), refusal(503, retry_after=0))
    on_clock(server, clock).rerank(QUERY, DOCUMENTS)
    assert clock.slept == [7, 2]


def test_retry_after_beyond_the_deadline_fails_at_once(server):
    clock = Clock()
    server.fail(refusal(429, "slow down", retry_after=300))
    with pytest.raises(Busy, match="slow down") as caught:
        on_clock(server, clock).rerank(QUERY, DOCUMENTS)
    assert caught.value.status == 429
    assert clock.slept == []


def test_one_deadline_holds_for_all_batches(server):
    clock = Clock()
    server.fail(*[refusal(503)] * 50)
    client = on_clock(server, clock, limits=Limits(documents=1), concurrency=1)
    with pytest.raises(Busy):
        client.rerank(QUERY, DOCUMENTS)
    assert sum(clock.slept) < 20


def test_a_server_that_takes_a_request_and_says_nothing_is_busy_and_is_not_asked_again():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            Busy, match=rf"POST {url}/rerank: no answer within 0\.2 s, although .* busy or hangs"
        ) as caught:
            Reranker.from_url(url, KEY, patience=Patience(timeout_s=0.2, deadline_s=5)).rerank("q", ["d"])
        assert caught.value.status == 0
        silent.settimeout(0)
        silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_gateway_that_gave_up_on_a_busy_server_is_not_asked_again(server, reranker):
    server.fail(refusal(504, "no reranker answered in time"))
    with pytest.raises(Busy, match="HTTP 504: no reranker answered in time; the server is busy or hangs") as caught:
        reranker.rerank(QUERY, DOCUMENTS)
    assert caught.value.status == 504
    assert len(server.requests()) == 1


def test_batches_that_wait_for_each_other_on_a_slow_server_are_computed_no_more_than_once(server):
    turn = asyncio.Lock()

    async def one_after_the_other(_faulty):
        async with turn:
            await asyncio.sleep(0.4)

    server.faulty.hold = one_after_the_other
    patience = Patience(timeout_s=0.5, deadline_s=5, first_wait_s=0.01)
    client = Reranker.from_url(server.url, KEY, server.ca, limits=Limits(documents=1), patience=patience)
    with pytest.raises(Busy):
        client.rerank(QUERY, DOCUMENTS[:3])
    until(lambda: not server.faulty.in_flight)
    assert len(server.requests()) <= 3
    patient = Reranker.from_url(server.url, KEY, server.ca, limits=Limits(documents=1))
    assert len(patient.rerank(QUERY, DOCUMENTS[:3])) == 3


def test_by_default_a_request_may_take_as_long_as_the_whole_call(server):
    seen = []

    def transport(*_args, timeout_s, **_options):
        seen.append(timeout_s)
        raise Unanswered("no answer", "timeout", sent=True)

    client = Reranker.from_url(server.url, KEY, http=transport, patience=Patience(deadline_s=300))
    with pytest.raises(Busy):
        client.models()
    assert seen == [pytest.approx(300, abs=1)]


def test_a_server_that_answers_drop_by_drop_is_cut_off_at_the_timeout():
    enough = threading.Event()

    def drip(listener):
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not enough.wait(0.02):
            try:
                connection.sendall(b" ")
            except OSError:
                break
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        patience = Patience(timeout_s=0.3, deadline_s=0.4)
        started = time.monotonic()
        with pytest.raises(Busy, match=r"no answer within 0\.3 s"):
            Reranker.from_url(url, KEY, patience=patience).models()
        assert time.monotonic() - started < 10
        enough.set()
        thread.join(5)


def test_a_server_that_comes_back_is_found(tmp_path):
    with guarded_server(tmp_path, tls=False) as server:
        port = int(server.url.rpartition(":")[2])
    clock = Clock()

    def sleep(seconds):
        clock.sleep(seconds)
        if len(clock.slept) == 3:
            revive()

    stopped = []

    def revive():
        listener = socket.create_server(("127.0.0.1", port))
        thread = threading.Thread(target=answer_once, args=(listener,), daemon=True)
        thread.start()
        stopped.append((listener, thread))

    def answer_once(listener):
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        body = json.dumps({"model": MODEL, "results": [{"index": 0, "relevance_score": 0.5}]}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        connection.close()

    client = Reranker.from_url(f"http://127.0.0.1:{port}", KEY, clock=clock, sleep=sleep, chance=lambda: 0.0)
    assert client.rerank("q", ["d"])[0].score == 0.5
    assert len(clock.slept) == 3
    for listener, thread in stopped:
        thread.join(5)
        listener.close()


def test_a_closed_port_is_unreachable_and_says_refused():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    patience = Patience(deadline_s=0.2, first_wait_s=0.05)
    with pytest.raises(Unreachable, match=rf"GET https://127.0.0.1:{port}/v1/models: .*refused \(\d+ attempts\)"):
        Reranker.from_url(f"https://127.0.0.1:{port}", KEY, patience=patience).models()


def test_a_host_name_that_cannot_be_resolved_is_not_tried_again():
    clock = Clock()
    client = Reranker.from_url("https://.", KEY, clock=clock, sleep=clock.sleep)
    with pytest.raises(Unreachable, match=r"GET https://\./v1/models: "):
        client.models()
    assert clock.slept == []
