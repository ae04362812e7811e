"""A typed client of Caddy's admin API: the config and the upstreams. Called by the Gateway resource and by tests.

A config change also replaces the admin listener (Caddy 2.11.7). The old listener closes calls that it has accepted but
not yet read. The client therefore retries broken calls; all calls are idempotent.
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
POLL_S = 0.2
WRONG_KEY = "; the admin key is missing or wrong"
HINTS = {  # a front answers 404 without a key; Caddy itself has no keys and answers 403 for a wrong Host or Origin
    401: WRONG_KEY,
    403: "; the admin API rejects this host name: use another name, or add this one to admin.origins in Caddy's config",
    404: WRONG_KEY,
}


class CaddyAdmin:
    """The client of one Caddy. Every method raises CaddyUnreachable without an answer, CaddyError for an error status.

    `where`: http(s)://host:port with an optional path, or unix:///path. `ca`: PEM text to verify https; empty means
    public CAs. `key`: for an API behind a front (see `launch`). Each call opens its own connection and has `timeout_s`.
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
        """Return the whole config; None if Caddy has none."""
        return self._request("GET", "/config/")

    def load(self, config: Json, *, secrets: Sequence[str] = ()) -> None:
        """Replace the whole config. `secrets` are removed from error messages."""
        self._request("POST", "/load", json.dumps(config).encode(), secrets)

    def upstreams(self) -> dict[str, int]:
        """Return requests in flight by upstream address; a removed upstream is included until it has none."""
        try:
            rows = self._request("GET", "/reverse_proxy/upstreams") or ()
            in_flight = {str(row["address"]): int(row["num_requests"]) for row in rows}
        except (KeyError, TypeError, ValueError):
            raise self._not_caddy() from None
        # leave out the hop servers' sockets: they count the same requests again
        return {address: count for address, count in in_flight.items() if "/" not in address}

    def drain(
        self, addresses: Iterable[str], *, timeout_s: float, settle_s: float, progress: Callable[[str], None]
    ) -> dict[str, int]:
        """Wait until retired upstreams have no requests in flight for `settle_s`: Caddy does not count a request before
        it has read the body. Return the counts that remain after `timeout_s`, by address.
        """
        retired, started = set(addresses), time.monotonic()
        busy_at = started
        while True:
            busy = {address: count for address, count in self.upstreams().items() if address in retired and count}
            now = time.monotonic()
            if busy:
                busy_at = now
                counts = ", ".join(f"{address}: {count}" for address, count in sorted(busy.items()))
                progress(f"waits for requests in flight ({counts}), {now - started:.0f} s of at most {timeout_s:g} s")
            if now - busy_at >= settle_s or now - started >= timeout_s:
                return busy
            time.sleep(POLL_S)

    def _request(self, method: str, path: str, body: bytes | None = None, secrets: Sequence[str] = ()) -> Json:
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
        return CaddyError(f"{self.where}: the answer is not in Caddy's format; is this Caddy's admin API?")
