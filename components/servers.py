"""The servers of a fleet, for the resources that handle all of them: concurrent calls, failures named by server.

Used by ClientKeys and RerankValidation. One resource for all servers instead of one for each: the engine writes the
whole state after each step, so what grows with the fleet should be the machines alone.
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
    """One server: its name in the stack, where it answers, the instance that it runs on, the nonce in its label."""

    name: str
    url: str
    instance_id: int
    nonce: str = ""

    @classmethod
    def parse_all(cls, raw: Sequence[Mapping[str, Any]] | None) -> list[Server]:
        return [structure(cls, one) for one in raw or ()]

    def own_key(self, stack_secret: str) -> str:
        """Return the key that manages this server, and no other."""
        return own_key(stack_secret, self.nonce)


def has_changed(olds: Mapping[str, Any], news: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether the servers, or one of `keys`, changed or are not known yet."""
    return any(not is_known(news.get(key)) or not same(olds.get(key), news.get(key)) for key in ("servers", *keys))


def changed_servers(olds: Mapping[str, Any], news: Mapping[str, Any], keys: Sequence[str]) -> list[Server]:
    """Return the servers to see to: all where one of `keys` changed, else those that are new or have moved."""
    servers = Server.parse_all(news.get("servers"))
    if any(not same(olds.get(key), news.get(key)) for key in keys):
        return servers
    before = Server.parse_all(olds.get("servers"))
    return [one for one in servers if one not in before]


def call_servers(servers: Sequence[Server], act: Callable[[Server], T]) -> dict[str, T]:
    """Do something on all servers at once; return what came of it by name.

    Raises the ServingError of the one that failed, or of all that failed one that names them, once each has ended.
    """
    done: dict[str, T] = {}
    failed: dict[str, ServingError] = {}
    with ThreadPoolExecutor(min(MAX_CONCURRENCY, max(len(servers), 1)), "servers") as pool:
        # in the caller's context: messages find the resource's row
        work = [(one, pool.submit(contextvars.copy_context().run, act, one)) for one in servers]
        for one, future in work:
            try:
                done[one.name] = future.result()
            except ServingError as error:
                failed[one.name] = error
    if not failed:
        return done
    if len(servers) == 1:
        raise next(iter(failed.values()))
    lines = [f"{len(failed)} of {len(servers)} servers:", *(f"{name}: {error}" for name, error in failed.items())]
    raise ServingError("\n".join(lines))
