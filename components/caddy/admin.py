"""A typed client of Caddy's admin API: its whole config, and its upstreams. Called by the Gateway resource, tests.

A change also replaces the admin listener (2.11.7): a call that the old one had accepted and not yet read is closed
without an answer. So calls that break are made again, which is safe for all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from components.errors import CaddyError, CaddyUnreachable
from components.redaction import excerpt
from components.vast.json_values import Json
from reranker.http import HttpTransport, Unanswered, bearer

MAX_ATTEMPTS = 4
POLL_S = 0.2  # between two looks at what is in flight
NO_KEY = "; the admin key is missing or not this Caddy's"
HINTS = {  # a front answers 404 to who has no key; Caddy itself knows no key, and says 403 of a Host or Origin
    401: NO_KEY,
    403: "; its admin API takes no requests under this name: ask by another one, or add it to admin.origins there",
    404: NO_KEY,
}


class CaddyAdmin:
    """Asks one Caddy. Every method raises CaddyUnreachable when nothing answers, CaddyError when the answer is no.

    `where`: http(s)://host:port, with a path where the API is behind one, or unix:///path. `ca`: PEM text that https is
    verified against; public CAs where it is empty. `key`: for an API behind a front (see `launch`). Each call has a
    connection of its own, and `timeout_s`.
    """

    def __init__(self, where: str, *, ca: str = "", key: str = "", timeout_s: float = 30.0) -> None:
        is_unix = where.startswith("unix:")
        self._base = "http://localhost" if is_unix else where.rstrip("/")
        self._send = HttpTransport(ca=ca, unix_socket=urlsplit(where).path if is_unix else "")
        self._timeout_s = timeout_s
        self.where = where
        self._key = key

    def __repr__(self) -> str:
        return f"CaddyAdmin({self.where!r}, {'with a key' if self._key else 'no key'})"

    def config(self) -> Json:
        """Return the whole config, None if there is none."""
        return self._ask("GET", "/config/")

    def load(self, config: Json, *, secrets: Sequence[str] = ()) -> None:
        """Make this the whole config. `secrets` are kept out of error messages."""
        self._ask("POST", "/load", json.dumps(config).encode(), secrets)

    def upstreams(self) -> dict[str, int]:
        """Return what each upstream has in flight, by address; one that left the config stays until that is nothing."""
        try:
            rows = self._ask("GET", "/reverse_proxy/upstreams") or ()
            in_flight = {str(one["address"]): int(one["num_requests"]) for one in rows}
        except (KeyError, TypeError, ValueError):
            raise self._not_caddy() from None
        # without the sockets before them, where the same is counted once more
        return {address: count for address, count in in_flight.items() if "/" not in address}

    def drain(
        self, addresses: Iterable[str], *, timeout_s: float, settle_s: float, progress: Callable[[str], None]
    ) -> dict[str, int]:
        """Wait until upstreams that get no new requests (`retired` ones) have nothing in flight, for `settle_s`: a
        request whose body is still being read is in no count yet. Return what is left by address after `timeout_s`.
        """
        retired, began = set(addresses), time.monotonic()
        busy_at = began
        while True:
            busy = {address: count for address, count in self.upstreams().items() if address in retired and count}
            now = time.monotonic()
            if busy:
                busy_at = now
                counts = ", ".join(f"{address}: {count}" for address, count in sorted(busy.items()))
                progress(f"waits for requests in flight ({counts}), {now - began:.0f} s of at most {timeout_s:g} s")
            if now - busy_at >= settle_s or now - began >= timeout_s:
                return busy
            time.sleep(POLL_S)

    def _ask(self, method: str, path: str, body: bytes | None = None, secrets: Sequence[str] = ()) -> Json:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                headers = bearer(self._key)
                answer = self._send(method, self._base + path, body=body, headers=headers, timeout_s=self._timeout_s)
                break
            except Unanswered as error:
                if not error.broke or attempt == MAX_ATTEMPTS:
                    raise CaddyUnreachable(f"Caddy's admin API at {self.where}: {error}") from None
        if answer.status != 200:
            text = excerpt(answer.message(), [*secrets, self._key], chars=500)
            hint = HINTS.get(answer.status, "")
            raise CaddyError(f"Caddy's admin API at {self.where}: {method} {path}: HTTP {answer.status}: {text}{hint}")
        try:
            return json.loads(answer.text or "null")
        except ValueError:
            raise self._not_caddy() from None

    def _not_caddy(self) -> CaddyError:
        return CaddyError(f"{self.where} does not answer as Caddy does; is it Caddy's admin API?")
