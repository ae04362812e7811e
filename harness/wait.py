"""Functions that wait for a condition. Used by harness and tests."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def until(condition: Callable[[], T], *, within_s: float = 60.0) -> T:
    """Wait until the value of a condition is true, and return it. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition is still false after {within_s:g} s"
        time.sleep(POLL_S)
    return value


def ended_within(connection: socket.socket, seconds: float) -> bool:
    """Return whether the server closes a connection in time; ignore the data that it sends."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True
