"""Waiting until upstreams that get no new requests have nothing in flight. Called by the Gateway resource.

They are in the config as `retired`: Caddy loses requests from its count of an address that left it (docs/gateway.md).
A request whose body is still being read is in no count yet, so nothing in flight must stay so for `settle_s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from components.caddy.admin import CaddyAdmin

POLL_S = 0.2


def drain(
    admin: CaddyAdmin,
    addresses: Iterable[str],
    *,
    timeout_s: float,
    settle_s: float,
    progress: Callable[[str], None],
) -> dict[str, int]:
    """Wait, and return what is still in flight by address when the time is over: nothing, if all went well.

    Raises CaddyUnreachable and CaddyError.
    """
    retired, began = set(addresses), time.monotonic()
    busy_at = began
    while True:
        busy = {one.address: one.in_flight for one in admin.upstreams() if one.address in retired and one.in_flight}
        now = time.monotonic()
        if busy:
            busy_at = now
            counts = ", ".join(f"{address}: {count}" for address, count in sorted(busy.items()))
            progress(f"waits for requests in flight ({counts}), {now - began:.0f} s of at most {timeout_s:g} s")
        if now - busy_at >= settle_s or now - began >= timeout_s:
            return busy
        time.sleep(POLL_S)
