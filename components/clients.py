"""The clients of a stack by name: each one's key, made from the stack's secret, and its bounds. Pure.

Called by RerankerFleet; ClientKeys tells the servers' guards of them, the Gateway lets them in.
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
    """A key by which a client comes in, with the bounds of its name; see components.guard.keys."""

    name: str
    key: str = field(default="", repr=False)
    expires_at: float | None = None
    requests_per_s: float | None = None
    pairs_per_min: float | None = None
    routes: tuple[str, ...] | None = None

    def entry(self) -> Key:
        """Return what a guard is told; without the key, that a gateway may name this client."""
        digest = sha256(self.key.encode()).hexdigest() if self.key else ""
        return Key(self.name, digest, self.expires_at, self.requests_per_s, self.pairs_per_min, self.routes)


def named_clients(asked: Mapping[str, ClientOptions], stack_secret: str) -> list[Client]:
    """Return the keys of all names, of each the current one first."""
    found = []
    for name, one in asked.items():
        ends_at = None
        if one.expires:
            ends_at = datetime.datetime.combine(one.expires, datetime.time(), datetime.UTC).timestamp()
        for number in (one.generation, one.generation - 1)[: 2 if one.keep_previous else 1]:
            # a server's own key is made of a nonce, which has no slash
            key = own_key(stack_secret, f"client/{name}/{number}")
            found.append(Client(name, key, ends_at, one.requests_per_s, one.pairs_per_min, one.routes or None))
    return found


def guard_clients(named: Sequence[Client], unnamed: Sequence[str], *, direct: bool) -> list[Client]:
    """Return what the servers' guards are told: all keys; behind a gateway (not `direct`) only the names."""
    if direct:
        return [*(Client(DEFAULT, key) for key in unnamed if key), *named]
    return list({one.name: replace(one, key="") for one in named}.values())
