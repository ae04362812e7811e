"""The named clients of a stack: their keys, derived from the stack's secret, and their limits. Pure.

Called by RerankerFleet. ClientKeys sends the clients to the servers' guards, the Gateway checks their keys.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from components.client_options import DEFAULT, ClientOptions
from components.guard.keys import Key
from components.vast.identity import own_key


@dataclass(frozen=True)
class Client:
    """A client's key and the limits of its name; see components.guard.keys."""

    name: str
    key: str = field(default="", repr=False)
    expires_at: float | None = None
    requests_per_s: float | None = None
    pairs_per_min: float | None = None
    routes: tuple[str, ...] | None = None

    def entry(self) -> Key:
        """Return the guard's record of this client; if its digest is empty, no key matches, and only a
        gateway can send this client's name."""
        digest = sha256(self.key.encode()).hexdigest() if self.key else ""
        return Key(self.name, digest, self.expires_at, self.requests_per_s, self.pairs_per_min, self.routes)


def named_clients(options_by_name: Mapping[str, ClientOptions], stack_secret: str) -> list[Client]:
    """Return the keys of all names, the current key of each name first."""
    clients = []
    for name, options in options_by_name.items():
        day = options.expires
        ends_at = datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp() if day else None
        for number in (options.generation, options.generation - 1)[: 2 if options.keep_previous else 1]:
            # a server's own key is made from a nonce, which has no slash
            key = own_key(stack_secret, f"client/{name}/{number}")
            limits = options.requests_per_s, options.pairs_per_min, options.routes or None
            clients.append(Client(name, key, ends_at, *limits))
    return clients


def guard_clients(named: Sequence[Client], unnamed: Sequence[str], *, direct: bool) -> list[Client]:
    """Return the clients for the servers' guards: all keys; behind a gateway (not `direct`) only the names."""
    if direct:
        return [*(Client(DEFAULT, key) for key in unnamed if key), *named]
    return list({client.name: replace(client, key="") for client in named}.values())
