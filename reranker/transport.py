"""One question over HTTP, asked again while the deadline lasts: the only place that talks to the network.

Used by `client`. Trust is the stack's own CA and nothing else; no proxy, no .netrc; redirects are not followed, since
the key goes to the address it belongs to.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from random import random
from threading import Event
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from reranker.endpoint import Endpoint
from reranker.errors import Busy, KeyRefused, MalformedAnswer, RerankerError, ServerError, Unreachable, Untrusted
from reranker.patience import NOT_NOW, Patience, retry_after_s

SHOWN_CHARS = 300
CHUNK_BYTES = 1 << 16


class Retryable(Exception):
    """Asking again may help: the error to raise if it cannot, and the seconds that the server asked for."""

    def __init__(self, error: RerankerError, wait_s: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait_s = wait_s


class Transport:
    """Asks one endpoint. `session`, `clock`, `sleep` and `chance` are seams; the defaults are the real ones."""

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience,
        *,
        connections: int = 4,
        session: requests.Session | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random,
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self.session = session or new_session(endpoint, connections)
        self.clock, self.sleep, self.chance = clock, sleep, chance

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
        left_s = max(0.001, deadline - self.clock())
        timeout_s = min(self.patience.timeout_s, left_s)
        headers = {"Authorization": f"Bearer {self.endpoint.api_key}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = self.session.request(
                method,
                self.endpoint.url + path,
                data=body,
                headers=headers,
                timeout=(min(self.patience.connect_s, timeout_s), timeout_s),
                allow_redirects=False,
                stream=True,
            )
            with answer:
                content = self._content(answer, min(deadline, self.clock() + timeout_s))
        except requests.Timeout:
            raise Retryable(Unreachable(f"{where}: no answer within {timeout_s:.3g} s")) from None
        except (requests.RequestException, OSError) as error:
            cause = _innermost(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise Untrusted(
                    f"{where}: its certificate is not trusted ({cause.verify_message or cause}): give the stack's "
                    "output ca_certificate as it is now"
                ) from None
            unreachable = Unreachable(f"{where}: {self._shown(str(cause) or type(cause).__name__)}")
            passing = requests.ConnectionError | requests.exceptions.ChunkedEncodingError
            if isinstance(error, requests.RequestException) and not isinstance(error, passing):
                raise unreachable from None  # such as an address that requests cannot read
            raise Retryable(unreachable) from None
        if answer.status_code != 200:
            self._refuse(where, answer, content)
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            raise MalformedAnswer(f"{where}: 200 with a body that is no JSON object: is this address the reranker's?")
        return raw

    def _content(self, answer: requests.Response, until: float) -> bytes:
        """Return the body; a server that sends it drop by drop is late as well."""
        content = bytearray()
        # what has arrived, and no waiting for more; requests would wait for a whole chunk (urllib3 1 can nothing else)
        read = getattr(answer.raw, "read1", answer.raw.read)
        try:
            while chunk := read(CHUNK_BYTES, decode_content=True):
                content += chunk
                if self.clock() > until:
                    raise requests.Timeout
        except ReadTimeoutError:
            raise requests.Timeout from None
        except HTTPError as error:
            raise requests.ConnectionError(error) from None
        return bytes(content)

    def _refuse(self, where: str, answer: requests.Response, content: bytes) -> None:
        status = answer.status_code
        said = self._shown(_message(content) or answer.reason or "no text")
        text = f"{where}: HTTP {status}: {said}"
        if status in NOT_NOW:
            raise Retryable(
                Busy(text, status, said), retry_after_s(answer.headers.get("Retry-After"), time.time())
            ) from None
        if status in (401, 403):
            raise KeyRefused(f"{text}; the API key is missing or not this server's", status, said)
        raise ServerError(text, status, said)

    def _shown(self, text: str) -> str:
        key = self.endpoint.api_key
        text = "".join(one if one.isprintable() else " " for one in text.replace(key, "[key]")).strip()
        return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


class OwnCa(HTTPAdapter):
    """Trusts one SSL context. `verify` of requests takes a file, which may be cleaned away under a long-lived process,
    and with its default adds every public CA; here neither can happen.
    """

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self.context = context
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Give the context to every connection."""
        super().init_poolmanager(*args, ssl_context=self.context, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave trust to the context."""
        conn.cert_reqs = "CERT_REQUIRED"


def new_session(endpoint: Endpoint, connections: int) -> requests.Session:
    """Return a session that trusts what the endpoint says, with room for this many connections at once."""
    session = requests.Session()
    session.trust_env = False
    context = endpoint.ssl_context()
    session.mount("http://", HTTPAdapter(pool_maxsize=connections))
    session.mount("https://", OwnCa(context, connections) if context else HTTPAdapter(pool_maxsize=connections))
    return session


def _with_count(error: RerankerError, attempts: int) -> RerankerError:
    if attempts > 1:
        error.args = (f"{error.args[0]} (asked {attempts} times)",)
    return error


def _innermost(error: BaseException) -> BaseException:
    """Return the cause that a person can use; requests and urllib3 wrap it several times."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((one for one in seen.args if isinstance(one, BaseException)), None)
        inner = inner or seen.__cause__ or seen.__context__
        if inner is None:
            return seen
        seen = inner


def _message(content: bytes) -> str:
    """Return what an error body says: vLLM's {"error": {"message"}} or {"error"}, FastAPI's {"detail"}, or its text."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError):
        return content[: 2 * SHOWN_CHARS].decode("utf-8", "replace")
    if not isinstance(raw, dict):
        return str(raw)
    error = raw.get("error")
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return str(error or raw.get("detail") or raw.get("message") or raw)
