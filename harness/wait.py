"""Waiting for what another process does. Used by tests of every kind."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def until(condition: Callable[[], T], *, within_s: float = 60.0) -> T:
    """Wait until a condition's value is true and return it; fail at the deadline."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not so after {within_s:g} s"
        time.sleep(POLL_S)
    return value


def ended_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the server ends a connection in time, whatever it says before."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True
