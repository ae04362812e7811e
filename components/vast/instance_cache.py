"""Reads shared by all threads of a process: SharedRead, and InstanceCache for the account's list of instances.

One request per instance would exceed the API's rate limit (429). Used by `rental` and the session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from components.errors import VastError
from components.vast.client import VastClient
from components.vast.models import Contract

T = TypeVar("T")


class SharedRead(Generic[T]):
    """A cached value that is read again once it is too old. Concurrent threads share one read."""

    def __init__(self, read: Callable[[], T], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._failure: tuple[float, VastError] | None = None
        self._value: T

    def get(self, *, max_age_s: float = 0.0) -> T:
        """Return the value, no older than `max_age_s` at the time of the call.
        If a read fails, the threads that wait for it get the same error, without a retry of their own."""
        called_at = self._clock()
        with self._lock:
            if self._read_at >= called_at - max_age_s:
                return self._value
            if self._failure is not None and self._failure[0] >= called_at:
                raise self._failure[1]
            read_at = self._clock()
            try:
                self._value = self._read()
            except VastError as error:
                self._failure = (self._clock(), error)
                raise
            self._read_at = read_at
            return self._value

    def invalidate(self) -> None:
        """Make the next `get` read again."""
        with self._lock:
            self._read_at = float("-inf")


class InstanceCache(SharedRead[Mapping[int, Contract]]):
    """Caches the list of contracts. One per plugin process."""

    def __init__(self, client: VastClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(lambda: {contract.id: contract for contract in client.instances()}, clock=clock)
        self._value = {}
        self._client = client

    def contracts(self, *, max_age_s: float = 0.0) -> Mapping[int, Contract]:
        """Return all contracts by id, no older than `max_age_s` at the time of the call."""
        return self.get(max_age_s=max_age_s)

    def put(self, contract: Contract) -> None:
        """Replace one contract in the cache after a change, without another read."""
        with self._lock:
            self._value = {**self._value, contract.id: contract}

    def contract(self, instance_id: int, *, max_age_s: float = 0.0) -> Contract | None:
        """Return one contract; None if the API reports that it does not exist.
        The list may lack a contract just after its rent, so a second read confirms that it does not exist."""
        contract = self.contracts(max_age_s=max_age_s).get(instance_id)
        return contract if contract is not None else self._client.instance(instance_id)
