"""Raw connections by hypothesis: sizes, pauses, cuts, forms of chunks, smuggled requests. 10,000 of them are
`alone`: their deadlines are judged.

No connection outlasts its deadline, none gets a 5xx, nothing without a valid key reaches vLLM, and the guard's memory
does not grow with their number. The guard runs in a process of its own: hypothesis takes memory too.
"""

import contextlib
import multiprocessing
import re
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.guard.connection import Bounds
from harness.wait import until
from tests.unit.guard_requests import KEY
from tests.unit.test_guard_sockets import (
    AUTH,
    EXTRA,
    FRAMES,
    HIDDEN,
    METHODS,
    TARGETS,
    VERSIONS,
    Listening,
    may_have_come_in,
    statuses,
)

BOUNDS = Bounds(header_s=0.2, body_s=0.2, idle_s=0.2, drain_s=0.2, quiet_s=0.05, without_key_burst=10**6)
ENDS_WITHIN_S = 3.0
GROWTH_KB = 2_000  # allowed growth after the first tenth of the connections

texts = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"\x00" * 50, b"\r\n" * 20, b"\xff" * 9, b"x" * 20_000, b"x" * 70_000])
)
lines = st.builds(
    lambda method, target, version: b" ".join([method, target, version]),
    st.one_of(st.just(b"POST"), st.sampled_from(METHODS), st.binary(max_size=8)),
    st.one_of(st.just(b"/rerank"), st.sampled_from(TARGETS), st.binary(max_size=20)),
    st.one_of(st.just(b"HTTP/1.1"), st.sampled_from(VERSIONS)),
)
headers = st.just([AUTH]) | st.lists(
    st.one_of(
        st.just(AUTH),
        st.sampled_from(EXTRA),
        st.tuples(st.binary(max_size=12), texts).map(b": ".join),
        st.sampled_from([b"Authorization: Bearer " + KEY[:-1], b"Host: h", b"Host: h"]),
    ),
    max_size=5,
)
frames = st.tuples(st.sampled_from(FRAMES), st.one_of(st.sampled_from([b"", *HIDDEN]), texts)).map(
    lambda pair: pair[0].replace(b"%s", pair[1])
)
requests_ = st.builds(
    lambda line, found, frame: b"\r\n".join([line, b"Host: h", *found, frame]), lines, headers, frames
)
raws = st.one_of(requests_, requests_, st.lists(requests_, min_size=2, max_size=3).map(b"".join), texts)
cuts = st.lists(st.integers(0, 400), max_size=4).map(sorted)


def serve(pipe):
    """Run the guard; for each message send which paths reached vLLM since the last one, and the tokens in flight."""
    with Listening(bounds=BOUNDS) as listening:
        pipe.send(listening.address)
        while pipe.recv():
            reached = [({"path": scope["path"]}, b"") for scope, _ in listening.app.reached]
            listening.app.reached.clear()
            pipe.send((reached, listening.guard.server.gate.in_flight.total()))


@contextlib.contextmanager
def guard_process():
    """Start the guard in a process; give its address, its pid and a function that asks it."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve, args=(other,))
    process.start()
    other.close()  # so that the end of the process is an error here

    def ask():
        pipe.send(True)
        return pipe.recv()

    try:
        yield pipe.recv(), process.pid, ask
    finally:
        pipe.send(False)
        process.join(20)
        process.kill()


def exchange(address, raw, at, *, half_close):
    """Send bytes in parts, and half-close or not; return what comes until the server ends it, within its deadlines."""
    received, start = b"", time.monotonic()
    with socket.create_connection(address, timeout=ENDS_WITHIN_S) as line:
        try:
            for part in (raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)):
                line.sendall(part)
            if half_close:
                line.shutdown(socket.SHUT_WR)
            while chunk := line.recv(65536):
                received += chunk
        except OSError:
            pass  # the server has ended it; a time-out fails below
    assert time.monotonic() - start < ENDS_WITHIN_S
    return received


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


@pytest.mark.parametrize("cases", [80, pytest.param(10_000, marks=[pytest.mark.all, pytest.mark.alone])])
def test_no_connection_hangs_gets_past_or_breaks_the_guard(cases):
    counted = {"connections": 0, "in": 0, "refused": 0, "silent": 0}
    resident = []
    before_this = [b""]  # what a client sends before it leaves may reach vLLM while the next one speaks already
    with guard_process() as (address, pid, ask):

        @settings(
            max_examples=cases, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(raws, cuts, st.booleans())
        def connect(raw, at, half_close):
            received = exchange(address, raw, at, half_close=half_close)
            reached, _ = ask()
            assert may_have_come_in(reached, before_this[0] + raw), (before_this[0], raw)
            before_this[0] = raw
            assert not [status for status in (statuses(received) if received else []) if status >= 500], raw
            counted["connections"] += 1
            counted["in" if reached else "refused" if received else "silent"] += 1
            if counted["connections"] % (cases // 10) == 0:
                resident.append(resident_kb(pid))

        connect()
        until(lambda: ask() == ([], 0))
    print(f"connections {counted}, resident memory of the guard by tenths, kB: {resident}")
    assert resident[-1] - resident[0] < GROWTH_KB
    assert counted["connections"] >= cases
    assert min(counted.values()) > 0, counted
