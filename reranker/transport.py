"""One request to a reranker, repeated until a deadline. Returns JSON objects, raises errors of `errors`.

Used by `client`, over `http`. Trust is the stack's own CA and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from random import random
from threading import Event
from typing import Any

from reranker.endpoint import Endpoint
from reranker.errors import Busy, KeyRefused, MalformedAnswer, RerankerError, ServerError, Unreachable, Untrusted
from reranker.http import Answer, HttpTransport, Transport, Unanswered, bearer
from reranker.patience import NOT_NOW, Patience, retry_after_s

SHOWN_CHARS = 300
BUSY = "it is busy or hangs; wait longer (deadline_s, --timeout) or send less at once, it is not asked again"
MAX_BYTES = 64 << 20


class Retryable(Exception):
    """Asking again may help: the error to raise if it cannot, and the seconds that the server asked for."""

    def __init__(self, error: RerankerError, wait_s: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait_s = wait_s


class Connection:
    """Asks one endpoint. `http`, `clock`, `sleep` and `chance` are seams; the defaults are the real ones."""

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience,
        *,
        connections: int = 4,
        http: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random,
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self._own = HttpTransport(
            ca=endpoint.ca_certificate,
            client_certificate=endpoint.client_certificate,
            connect_s=patience.connect_s,
            keep=connections,
        )
        self.http: Transport = http or self._own
        self.clock, self.sleep, self.chance = clock, sleep, chance

    def close(self) -> None:
        """Close the connections."""
        self._own.close()

    def deadline(self) -> float:
        """Return the moment, on this transport's clock, by which a call that starts now has to be answered."""
        return self.clock() + self.patience.deadline_s

    def ask(
        self, method: str, path: str, body: bytes | None, deadline: float, stop: Event | None = None
    ) -> Mapping[str, Any]:
        """Return the JSON object that the server answers with. `stop` ends the repetition early.

        Raises Unreachable, Untrusted, ServerError (KeyRefused, Busy) or MalformedAnswer.
        """
        attempt = 0
        while True:
            try:
                return self._once(method, path, body, deadline)
            except Retryable as late:
                wait_s = self.patience.wait_s(attempt, self.chance(), late.wait_s)
                attempt += 1
                if (stop and stop.is_set()) or self.clock() + wait_s >= deadline:
                    raise _with_count(late.error, attempt) from None
            self.sleep(wait_s)

    def _once(self, method: str, path: str, body: bytes | None, deadline: float) -> Mapping[str, Any]:
        where = f"{method} {self.endpoint.url}{path}"
        timeout_s = min(self.patience.timeout_s or math.inf, max(0.001, deadline - self.clock()))
        headers = {**bearer(self.endpoint.api_key), "Accept": "application/json"}
        try:
            answer = self.http(
                method, self.endpoint.url + path, body=body, headers=headers, timeout_s=timeout_s, max_bytes=MAX_BYTES
            )
        except Unanswered as error:
            if error.kind == "untrusted":
                raise Untrusted(f"{where}: {error}: give the stack's output ca_certificate as it is now") from None
            if error.kind == "uncertified":
                raise Unreachable(f"{where}: {error}: give one, as client_certificate and client_key") from None
            if error.kind == "timeout" and error.sent:  # it may be computing still: asking again would double its work
                raise Busy(f"{where}: {error}, though it took the request: {BUSY}") from None
            unreachable = Unreachable(f"{where}: {error}")
            if error.kind == "unsendable":
                raise unreachable from None
            raise Retryable(unreachable) from None
        if answer.status != 200:
            self._refuse(where, answer)
        raw = answer.json()
        if not isinstance(raw, dict):
            raise MalformedAnswer(f"{where}: 200 with a body that is no JSON object: is this address the reranker's?")
        return raw

    def _refuse(self, where: str, answer: Answer) -> None:
        status, said = answer.status, shown(answer.message(), self.endpoint.api_key)
        text = f"{where}: HTTP {status}: {said}"
        if status in NOT_NOW:
            raise Retryable(Busy(text, status, said), retry_after_s(answer.headers.get("retry-after"), time.time()))
        if status == 504:
            raise Busy(f"{text}; {BUSY}", status, said)
        if status == 401:
            raise KeyRefused(f"{text}; the API key is missing or not this server's", status, said)
        raise ServerError(text, status, said)


def shown(text: str, key: str) -> str:
    """Return a server's words as a person may see them: without the key, without control characters, cut."""
    text = "".join(one if one.isprintable() else " " for one in text.replace(key, "[key]")).strip()
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def _with_count(error: RerankerError, attempts: int) -> RerankerError:
    if attempts > 1:
        error.args = (f"{error.args[0]} (asked {attempts} times)",)
    return error
