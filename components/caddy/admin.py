"""A typed client of Caddy's admin API: the whole config with its etag, changes that cannot lose another's, upstreams.

Called by the Gateway resource, bench and tests. Facts (Caddy 2.11.7, admin.go and caddy.go): a change to /config/ runs
the new config beside the old one and then stops the old, whose requests end in peace; one that cannot run is refused
and the old one stays; If-Match takes the etag of a read, and 412 says that someone else was faster.
A change also replaces the admin listener: a call that the old one had accepted and not yet read is closed without an
answer, so reads that break are made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from components.caddy.record import Json
from components.caddy.transport import Answer, Transport, Unanswered
from components.errors import CaddyError, CaddyUnreachable
from components.redaction import scrub

MAX_ATTEMPTS = 5  # of reading and changing again, where someone else changes the same Caddy
MAX_READS = 4


@dataclass(frozen=True)
class Upstream:
    """An address that a proxy of this Caddy uses or still waits for, whichever site's it is."""

    address: str
    in_flight: int
    fails: int


class CaddyAdmin:
    """Asks one Caddy. Every method raises CaddyUnreachable when nothing answers, CaddyError when the answer is no.

    `where` is what messages call it. `key` is for an admin API behind a front (see `launch`).
    """

    def __init__(self, transport: Transport, where: str, *, key: str = "") -> None:
        self._send = transport
        self.where = where
        self._key = key

    def __repr__(self) -> str:
        return f"CaddyAdmin({self.where!r}, {'with a key' if self._key else 'no key'})"

    def config(self) -> tuple[Json, str]:
        """Return the whole config, None if there is none, and its etag."""
        answer = self._ask("GET", "/config/")
        return self._json(answer), answer.headers.get("etag", "")

    def load(self, config: Json, *, etag: str = "", secrets: list[str] | None = None) -> None:
        """Make this the whole config. With `etag`, only if the config is still the one of that read."""
        headers = {"If-Match": etag} if etag else {}
        self._ask("POST", "/config/", body=json.dumps(config), headers=headers, secrets=secrets or [])

    def change(self, how: Callable[[Json], Json], *, secrets: list[str] | None = None) -> Json:
        """Replace the config by a function of it, again from the start whenever another change came between.

        Returns the new config. Nothing is sent where the function changes nothing.
        """
        for turn in range(1, MAX_ATTEMPTS + 1):
            current, etag = self.config()
            wanted = how(current)
            if wanted == (current or {}):
                return wanted
            try:
                self.load(wanted, etag=etag, secrets=secrets)
            except CaddyError as error:
                if error.status != 412 or turn == MAX_ATTEMPTS:
                    raise
            else:
                return wanted
        raise AssertionError("unreachable")

    def upstreams(self) -> list[Upstream]:
        """Return every upstream with what it has in flight; one that left the config stays until that is nothing."""
        raw = self._json(self._ask("GET", "/reverse_proxy/upstreams"))
        try:
            return [Upstream(str(one["address"]), int(one["num_requests"]), int(one["fails"])) for one in raw or ()]
        except (KeyError, TypeError, ValueError):
            raise self._strange() from None

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        headers: dict[str, str] | None = None,
        secrets: list[str] | None = None,
    ) -> Answer:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        for turn in range(1, MAX_READS + 1):
            try:
                answer = self._send(method, path, body=body, headers=key | (headers or {}))
                break
            except Unanswered as error:
                if method == "GET" and error.broke and turn < MAX_READS:
                    continue
                raise CaddyUnreachable(f"Caddy's admin API at {self.where}: {error}", refused=error.refused) from None
        if answer.status != 200:
            said = scrub(_message(answer.text), [*(secrets or []), self._key])
            hint = "; the admin key is missing or not this Caddy's" if answer.status in (401, 403) else ""
            raise CaddyError(
                f"Caddy's admin API at {self.where}: {method} {path}: HTTP {answer.status}: {said}{hint}",
                status=answer.status,
            )
        return answer

    def _json(self, answer: Answer) -> Json:
        try:
            return json.loads(answer.text or "null")
        except ValueError:
            raise self._strange() from None

    def _strange(self) -> CaddyError:
        return CaddyError(f"{self.where} does not answer as Caddy does; is it Caddy's admin API?", status=200)


def _message(text: str) -> str:
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200] or "no message"
