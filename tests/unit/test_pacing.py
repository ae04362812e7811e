"""Calls wait for their turn: by when they really leave, refused ones first, and a queue is no slow API."""

import threading
import time

import pytest

from components.vast.client import VastClient
from components.vast.pacing import Limit, Pacer
from reranker.http import Answer
from tests.unit.scripted_api import KEY, ManualClock, ScriptedApi


def test_pacing_spreads_calls_and_lets_the_first_through_at_once():
    clock = ManualClock()
    pacer = Pacer({"rent": Limit(1, 4.5), "search": Limit(2, 60.0)}, clock=clock, sleep=clock.sleep)
    assert [pacer.wait("rent") for _ in range(3)] == [0.0, 4.5, 4.5]
    assert [pacer.wait("search") for _ in range(3)] == [0.0, 0.0, 60.0]
    assert pacer.wait("unlimited") == 0.0


def test_calls_are_spaced_by_when_they_really_leave():
    clock, sent = ManualClock(), []
    pacer = Pacer({"rent": Limit(1, 4.5)}, clock=clock, sleep=lambda seconds: clock.sleep(seconds + 0.3))
    for _ in range(3):
        pacer.wait("rent")
        sent.append(clock() - 1000.0)
    assert sent == pytest.approx([0.0, 4.8, 9.6])


def test_an_endpoint_that_refused_a_call_is_left_alone_by_all():
    clock = ManualClock()
    pacer = Pacer({"rent": Limit(1, 4.5)}, clock=clock, sleep=clock.sleep)
    pacer.wait("rent")
    pacer.hold("rent", 20.0)
    assert pacer.wait("rent") == 20.0


def test_a_refused_call_goes_before_those_that_wait_for_their_first_turn():
    order, pacer = [], Pacer({"rent": Limit(1, 1.0)})
    pacer.wait("rent")

    def call(name, again):
        pacer.wait("rent", retry=again)
        order.append(name)

    threads = []
    for name, again in (("first", False), ("second", False), ("refused", True)):
        threads.append(threading.Thread(target=call, args=(name, again)))
        threads[-1].start()
        deadline = time.monotonic() + 10
        while pacer.queue_length("rent") < len(threads):
            assert time.monotonic() < deadline
    for thread in threads:
        thread.join()
    assert order == ["first", "refused", "second"]


def test_time_in_the_queue_is_not_taken_for_an_api_that_is_slow():
    api = ScriptedApi()
    refused = iter([Answer(429, b"too often", {})])
    api.interrupt = lambda _method, _path: next(refused, None)
    pacer = Pacer({"list": Limit(1, 120.0)}, clock=api.clock, sleep=api.clock.sleep)
    pacer.wait("list")
    client = VastClient(
        KEY,
        transport=api,
        pacer=pacer,
        api_url="http://api.test",
        clock=api.clock,
        sleep=api.clock.sleep,
        patience_s=30,
    )
    assert list(client.instances()) == []
