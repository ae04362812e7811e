"""What all threads of a process read of the account once: SharedRead, and InstanceCache, its list of instances.

A request for each instance instead is what leads other clients into storms of 429. Used by `rental` and the session.
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
    """A value that is read anew once it is too old; threads that ask while a read is under way share its answer."""

    def __init__(self, read: Callable[[], T], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._failed: tuple[float, VastError] | None = None
        self._value: T

    def get(self, *, max_age_s: float = 0.0) -> T:
        """Return the value, no older than `max_age_s` at the time of the call.

        A read that fails does so for all who waited for it, so that none waits through the client's retries again.
        """
        asked_at = self._clock()
        with self._lock:
            if self._read_at >= asked_at - max_age_s:
                return self._value
            if self._failed is not None and self._failed[0] >= asked_at:
                raise self._failed[1]
            read_at = self._clock()
            try:
                self._value = self._read()
            except VastError as error:
                self._failed = (self._clock(), error)
                raise
            self._read_at = read_at
            return self._value

    def invalidate(self) -> None:
        """Let the next look read anew: something was just changed."""
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
        """Take in what was just changed on one contract, so that nobody needs another read to know it."""
        with self._lock:
            self._value = {**self._value, contract.id: contract}

    def contract(self, instance_id: int, *, max_age_s: float = 0.0) -> Contract | None:
        """Return one contract; None only when the API says on its own authority that there is none.

        The list lags behind a rent by moments and may lag behind a destroy, so absence is confirmed by a read.
        """
        listed = self.contracts(max_age_s=max_age_s).get(instance_id)
        return listed if listed is not None else self._client.instance(instance_id)
