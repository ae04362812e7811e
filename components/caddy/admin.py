"""A typed client of Caddy's admin API: its whole config, and its upstreams. Called by the Gateway resource, tests.

A change also replaces the admin listener (2.11.7): a call that the old one had accepted and not yet read is closed
without an answer. So calls that break are made again, which is safe for all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from components.caddy.spec import Json
from components.errors import CaddyError, CaddyUnreachable
from components.redaction import scrub
from reranker.http import Answer, HttpTransport, Unanswered, bearer

MAX_ATTEMPTS = 4
NO_KEY = "; the admin key is missing or not this Caddy's"
HINTS = {  # a front answers 404 to who has no key; Caddy itself knows no key, and says 403 of a Host or Origin
    401: NO_KEY,
    403: "; its admin API takes no requests under this name: ask by another one, or add it to admin.origins there",
    404: NO_KEY,
}


@dataclass(frozen=True)
class Upstream:
    """An address that a proxy of this Caddy uses or still waits for."""

    address: str
    in_flight: int
    fails: int


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
        return self._json(self._request("GET", "/config/"))

    def load(self, config: Json, *, secrets: list[str] | None = None) -> None:
        """Make this the whole config. `secrets` are kept out of error messages."""
        self._request("POST", "/load", body=json.dumps(config), secrets=secrets or [])

    def upstreams(self) -> list[Upstream]:
        """Return every upstream with what it has in flight; one that left the config stays until that is nothing."""
        raw = self._json(self._request("GET", "/reverse_proxy/upstreams"))
        try:
            return [Upstream(str(one["address"]), int(one["num_requests"]), int(one["fails"])) for one in raw or ()]
        except (KeyError, TypeError, ValueError):
            raise self._not_caddy() from None

    def _request(self, method: str, path: str, *, body: str | None = None, secrets: list[str] | None = None) -> Answer:
        sent = None if body is None else body.encode()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                answer = self._send(
                    method, self._base + path, body=sent, headers=bearer(self._key), timeout_s=self._timeout_s
                )
                break
            except Unanswered as error:
                if not error.broke or attempt == MAX_ATTEMPTS:
                    raise CaddyUnreachable(f"Caddy's admin API at {self.where}: {error}") from None
        if answer.status != 200:
            text = scrub(_message(answer.text), [*(secrets or []), self._key])
            hint = HINTS.get(answer.status, "")
            raise CaddyError(f"Caddy's admin API at {self.where}: {method} {path}: HTTP {answer.status}: {text}{hint}")
        return answer

    def _json(self, answer: Answer) -> Json:
        try:
            return json.loads(answer.text or "null")
        except ValueError:
            raise self._not_caddy() from None

    def _not_caddy(self) -> CaddyError:
        return CaddyError(f"{self.where} does not answer as Caddy does; is it Caddy's admin API?")


def _message(text: str) -> str:
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200] or "no message"
