"""Sends one request to a reranker over `http`, with retries until a deadline. Used by `client`."""

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
from reranker.patience import RETRIED_STATUSES, Patience, retry_after_s

MAX_MESSAGE_CHARS = 300
BUSY = "the server is busy or hangs; not retried. Wait longer (deadline_s, --timeout) or send fewer requests at once"
MAX_BYTES = 64 << 20


class Retryable(Exception):
    """A failure worth a retry: the error to raise at the deadline, and the seconds of Retry-After."""

    def __init__(self, error: RerankerError, wait_s: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait_s = wait_s


class Connection:
    """Sends requests to one endpoint. Tests replace `http`, `clock`, `sleep` and `chance`."""

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience,
        *,
        keep: int = 4,
        http: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random,
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self._transport = HttpTransport(
            ca=endpoint.ca_certificate,
            client_certificate=endpoint.client_certificate,
            connect_s=patience.connect_s,
            keep=keep,
        )
        self.http: Transport = http or self._transport
        self.clock, self.sleep, self.chance = clock, sleep, chance

    def close(self) -> None:
        self._transport.close()

    def deadline(self) -> float:
        """Return the deadline of a call that starts now, in the time of `clock`."""
        return self.clock() + self.patience.deadline_s

    def request(
        self, method: str, path: str, body: bytes | None, deadline: float, stop: Event | None = None
    ) -> Mapping[str, Any]:
        """Return the JSON object of the response. `stop` ends the retries early.

        Raises Unreachable, Untrusted, ServerError (KeyRefused, Busy) or MalformedAnswer.
        """
        attempt = 0
        while True:
            try:
                return self._request_once(method, path, body, deadline)
            except Retryable as failure:
                wait_s = self.patience.wait_s(attempt, self.chance(), failure.wait_s)
                attempt += 1
                if (stop and stop.is_set()) or self.clock() + wait_s >= deadline:
                    if attempt > 1:
                        failure.error.args = (f"{failure.error.args[0]} ({attempt} attempts)",)
                    raise failure.error from None
            self.sleep(wait_s)

    def _request_once(self, method: str, path: str, body: bytes | None, deadline: float) -> Mapping[str, Any]:
        target = f"{method} {self.endpoint.url}{path}"
        timeout_s = min(self.patience.timeout_s or math.inf, max(0.001, deadline - self.clock()))
        headers = {**bearer(self.endpoint.api_key), "Accept": "application/json"}
        try:
            answer = self.http(
                method, self.endpoint.url + path, body=body, headers=headers, timeout_s=timeout_s, max_bytes=MAX_BYTES
            )
        except Unanswered as error:
            if error.kind == "untrusted":
                raise Untrusted(f"{target}: {error}: pass the current stack output ca_certificate") from None
            if error.kind == "uncertified":
                raise Unreachable(f"{target}: {error}: pass client_certificate and client_key") from None
            if error.kind == "timeout" and error.sent:  # a retry would double the server's work
                raise Busy(f"{target}: {error}, although the request was sent: {BUSY}") from None
            unreachable = Unreachable(f"{target}: {error}")
            if error.kind == "unsendable":
                raise unreachable from None
            raise Retryable(unreachable) from None
        if answer.status != 200:
            self._raise_for_status(target, answer)
        raw = answer.json()
        if not isinstance(raw, dict):
            raise MalformedAnswer(f"{target}: HTTP 200 with a body that is not a JSON object: check the address")
        return raw

    def _raise_for_status(self, target: str, answer: Answer) -> None:
        status, message = answer.status, sanitize(answer.message(), self.endpoint.api_key)
        text = f"{target}: HTTP {status}: {message}"
        if status in RETRIED_STATUSES:
            raise Retryable(Busy(text, status, message), retry_after_s(answer.headers.get("retry-after"), time.time()))
        if status == 504:
            raise Busy(f"{text}; {BUSY}", status, message)
        if status == 401:
            raise KeyRefused(f"{text}; the API key is missing or invalid", status, message)
        raise ServerError(text, status, message)


def sanitize(text: str, key: str) -> str:
    """Return a server's text without the key and control characters, cut to MAX_MESSAGE_CHARS."""
    text = "".join(char if char.isprintable() else " " for char in text.replace(key, "[key]")).strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[:MAX_MESSAGE_CHARS] + "..."
