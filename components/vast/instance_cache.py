"""A cache of the account's instance list; concurrent callers share one request. One per plugin process.

A request for each instance instead is what leads other clients into storms of 429.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from components.errors import VastError
from components.vast.client import VastClient
from components.vast.models import Contract


class InstanceCache:
    """Caches the list of contracts; threads that ask while a read is under way share its answer."""

    def __init__(self, client: VastClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._contracts: Mapping[int, Contract] = {}
        self._failed: tuple[float, VastError] | None = None

    def contracts(self, *, max_age_s: float = 0.0) -> Mapping[int, Contract]:
        """Return all contracts by id, no older than `max_age_s` at the time of the call.

        A read that fails does so for all who waited for it: each has had the client's patience once, not in turns.
        """
        asked_at = self._clock()
        with self._lock:
            if self._read_at >= asked_at - max_age_s:
                return self._contracts
            if self._failed is not None and self._failed[0] >= asked_at:
                raise self._failed[1]
            read_at = self._clock()
            try:
                self._contracts = {contract.id: contract for contract in self._client.instances()}
            except VastError as error:
                self._failed = (self._clock(), error)
                raise
            self._read_at = read_at
            return self._contracts

    def note(self, contract: Contract) -> None:
        """Take in what was just changed on one contract, so that nobody needs another read to know it."""
        with self._lock:
            self._contracts = {**self._contracts, contract.id: contract}

    def forget(self) -> None:
        """Let the next look read anew: something was just changed."""
        with self._lock:
            self._read_at = float("-inf")

    def contract(self, instance_id: int, *, max_age_s: float = 0.0) -> Contract | None:
        """Return one contract; None only when the API says on its own authority that there is none.

        The list lags behind a rent by moments and may lag behind a destroy, so absence is confirmed by a read.
        """
        found = self.contracts(max_age_s=max_age_s).get(instance_id)
        return found if found is not None else self._client.instance(instance_id)
