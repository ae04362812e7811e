"""The servers of a fleet: concurrent calls, with the server's name in errors. Used by ClientKeys and RerankValidation.

These are single resources for all servers. The engine writes the complete state after each step, so only the number of
Instances should grow with the fleet.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from components.errors import ServingError
from components.plugin.verbs import is_known
from components.records import structure
from components.vast.identity import own_key
from components.vast.json_values import same

MAX_CONCURRENCY = 32
T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """One server: its name in the stack, its URL, its instance, the nonce in its label."""

    name: str
    url: str
    instance_id: int
    nonce: str = ""

    @classmethod
    def parse_all(cls, raw: Sequence[Mapping[str, Any]] | None) -> list[Server]:
        return [structure(cls, server) for server in raw or ()]

    def own_key(self, stack_secret: str) -> str:
        return own_key(stack_secret, self.nonce)


def has_changed(olds: Mapping[str, Any], news: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether the servers or one of `keys` have changed or are still unknown."""
    return any(not is_known(news.get(key)) or not same(olds.get(key), news.get(key)) for key in ("servers", *keys))


def changed_servers(olds: Mapping[str, Any], news: Mapping[str, Any], keys: Sequence[str]) -> list[Server]:
    """Return the affected servers: all if one of `keys` has changed, else those that are new or have moved."""
    servers = Server.parse_all(news.get("servers"))
    if any(not same(olds.get(key), news.get(key)) for key in keys):
        return servers
    before = Server.parse_all(olds.get("servers"))
    return [server for server in servers if server not in before]


def call_servers(servers: Sequence[Server], act: Callable[[Server], T]) -> dict[str, T]:
    """Call `act` for all servers at once; return the results by name.

    Raises ServingError after all calls have ended: the only server's error, or one that lists the failed servers.
    """
    results: dict[str, T] = {}
    failed: dict[str, ServingError] = {}
    with ThreadPoolExecutor(min(MAX_CONCURRENCY, max(len(servers), 1)), "servers") as pool:
        # the caller's context has the resource's row for messages
        futures = {server.name: pool.submit(contextvars.copy_context().run, act, server) for server in servers}
        for name, future in futures.items():
            try:
                results[name] = future.result()
            except ServingError as error:
                failed[name] = error
    if not failed:
        return results
    if len(servers) == 1:
        raise next(iter(failed.values()))
    lines = [f"{len(failed)} of {len(servers)} servers:", *(f"{name}: {error}" for name, error in failed.items())]
    raise ServingError("\n".join(lines))
