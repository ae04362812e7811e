"""Sends the proxy's requests to the stack: over TLS, in batches, with retries until a deadline. Called by `proxy`.

Address, key and CA come from a function. It is called again when the server is unreachable or refuses the key. Current
requests finish on the old connections.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import random
from typing import Any

import aiohttp

from reranker.answers import read_models, read_ranking
from reranker.batches import Limits, encode, encoded_sizes, is_too_large, split
from reranker.dialects import RerankRequest
from reranker.endpoint import Endpoint
from reranker.errors import Busy, KeyRefused, MalformedAnswer, RerankerError, ServerError, Unreachable, Untrusted
from reranker.http import Answer, bearer, tls_context
from reranker.patience import RETRIED_STATUSES, Patience, retry_after_s
from reranker.transport import MAX_BYTES, Retryable, sanitize

IDLE_S = 4.0  # vLLM closes connections that are idle for 5 s
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 5, 5, 3  # TCP keepalive: finds machines that stop without closing connections
KEY_GRACE_S = 10.0  # retry a refused key for this time: the outputs may be older than a rotation
REREAD_S = 1.0  # minimum interval between reads of the source
MAX_CONCURRENCY = 4  # batches of one request
Json = Mapping[str, Any]
Scores = list[tuple[int, float]]


@dataclass(frozen=True)
class Link:
    """An endpoint and the connections to it."""

    endpoint: Endpoint
    session: aiohttp.ClientSession

    @classmethod
    def open(cls, endpoint: Endpoint, connect_s: float) -> Link:
        context = endpoint.ssl_context() or tls_context()
        connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=IDLE_S, socket_factory=_make_socket)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        headers = {**bearer(endpoint.api_key), "Accept": "application/json"}
        return cls(endpoint, aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers))


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket with TCP keepalive."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", 1000 * (PROBE_AFTER_S + PROBE_EVERY_S * PROBES)),
    ):
        if hasattr(socket, option):  # Linux only
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock


class StaleEndpoint(Retryable):
    """A failure that may be due to an outdated address or key: read the source before the retry."""


class Upstream:
    """Client of a stack that may move. `source` returns the current endpoint or raises RerankerError; it may block.

    `events` counts "retries", "rereads" and "moves". `log` is called for each move and each failed read.
    """

    def __init__(self, source: Callable[[], Endpoint], patience: Patience, log: Callable[[str], None]) -> None:
        self._source, self.patience, self.limits, self._log = source, patience, Limits(), log
        self.events: Counter[str] = Counter(retries=0, rereads=0, moves=0)
        self._link: Link | None = None
        self._read_lock = asyncio.Lock()
        self._read_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._max_model_len: tuple[Link, int | None] | None = None

    @property
    def link(self) -> Link:
        if self._link is None:
            raise RuntimeError("call start() first")
        return self._link

    async def start(self) -> None:
        """Read the source for the first time. Raises RerankerError."""
        self._link = Link.open(await asyncio.to_thread(self._source), self.patience.connect_s)
        self._read_at = time.monotonic()

    async def close(self) -> None:
        """Close all connections."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._link:
            await self._link.session.close()

    async def follow(self, link: Link) -> bool:
        """Read the source, at most every REREAD_S. Return whether the stack has moved away from `link`."""
        async with self._read_lock:
            if self.link is not link or time.monotonic() < self._read_at + REREAD_S:
                return self.link is not link
            self.events["rereads"] += 1
            try:
                endpoint = await asyncio.to_thread(self._source)
            except RerankerError as error:
                self._log(f"cannot read the stack's outputs; the last outputs stay in use: {error}")
                return False
            finally:
                self._read_at = time.monotonic()
            if endpoint == link.endpoint:
                return False
            self._link = Link.open(endpoint, self.patience.connect_s)
            self.events["moves"] += 1
            self._log(
                f"the stack is at {endpoint.url} now"
                if endpoint.url != link.endpoint.url
                else "same address; its key, CA, model or certificate changed"
            )
            task = asyncio.create_task(self._close_later(link))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            return True

    async def _close_later(self, link: Link) -> None:
        try:
            await asyncio.sleep(self.patience.deadline_s)
        finally:
            await link.session.close()

    async def max_model_len(self, deadline: float) -> int | None:
        """Return the model's context length in tokens, None if unknown."""
        if self._max_model_len is None or self._max_model_len[0] is not self.link:
            link = self.link
            served = read_models(await self.request("GET", "/v1/models", None, deadline))
            self._max_model_len = (link, served[0].max_model_len if served else None)
        return self._max_model_len[1]

    async def rerank(self, request: RerankRequest, deadline: float) -> tuple[Scores, str, int]:
        """Return (index, score) best first, the model, and the number of input tokens."""
        fields: dict[str, Any] = {"query": request.query, **request.extra}
        # Haystack always sends 4096; vLLM refuses a value above the model's length
        max_model_len = request.max_tokens_per_doc and await self.max_model_len(deadline)
        if request.max_tokens_per_doc and max_model_len and request.max_tokens_per_doc < max_model_len:
            fields["max_tokens_per_doc"] = request.max_tokens_per_doc
        model, tokens = "", 0

        async def send(part: range) -> Scores:
            nonlocal model, tokens
            limit = {} if request.top_n is None else {"top_n": min(request.top_n, len(part))}
            body = {**fields, **limit, "documents": request.documents[part.start : part.stop]}
            try:
                raw = await self.request("POST", "/rerank", body, deadline)
            except ServerError as error:
                if not is_too_large(error) or len(part) < 2:
                    raise
                middle = len(part) // 2
                return await send(part[:middle]) + await send(part[middle:])
            model, scores = read_ranking(raw, part, request.top_n)
            usage = raw.get("usage")
            tokens += int(usage.get("prompt_tokens") or 0) if isinstance(usage, dict) else 0
            return scores

        empty = {**fields, "model": self.link.endpoint.model, "top_n": request.top_n, "documents": []}
        parts = split("documents", encoded_sizes("documents", request.documents), len(encode(empty)), self.limits)
        semaphore = asyncio.Semaphore(MAX_CONCURRENCY)

        async def send_part(part: range) -> Scores:
            async with semaphore:
                return await send(part)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(send_part(part)) for part in parts]
        except* RerankerError as errors:
            raise next(error for error in errors.exceptions if isinstance(error, RerankerError)) from None
        scores = [row for task in tasks for row in task.result()]
        scores.sort(key=lambda row: (-row[1], row[0]))
        return scores[: request.top_n], model or self.link.endpoint.model or "", tokens

    async def request(self, method: str, path: str, body: Json | None, deadline: float) -> Json:
        """Return the JSON object of the response. `deadline`: in time.monotonic. Raises RerankerError."""
        attempt, started = 0, time.monotonic()
        while True:
            link = self.link
            try:
                return await self._request_once(link, method, path, body, deadline)
            except Retryable as failure:
                if isinstance(failure.error, KeyRefused) and time.monotonic() > started + KEY_GRACE_S:
                    raise failure.error from None
                moved = isinstance(failure, StaleEndpoint) and await self.follow(link)
                wait_s = 0.0 if moved else self.patience.wait_s(attempt, random(), failure.wait_s)  # noqa: S311
                attempt += not moved
                if time.monotonic() + wait_s >= deadline:
                    raise failure.error from None
            self.events["retries"] += 1
            await asyncio.sleep(wait_s)

    async def _request_once(self, link: Link, method: str, path: str, body: Json | None, deadline: float) -> Json:
        endpoint = link.endpoint
        target = f"{method} {endpoint.url}{path}"
        if body is not None and endpoint.model:
            body = {**body, "model": endpoint.model}
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = encode(body) if body is not None else None
        try:
            async with (
                asyncio.timeout(deadline - time.monotonic()),
                link.session.request(
                    method, endpoint.url + path, data=data, headers=headers, allow_redirects=False
                ) as response,
            ):
                content = await _content(response)
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", "")
            raise StaleEndpoint(Untrusted(f"{target}: its certificate is not trusted ({reason})")) from None
        except aiohttp.ConnectionTimeoutError:
            connect_s = self.patience.connect_s
            raise StaleEndpoint(Unreachable(f"{target}: no connection within {connect_s:g} s")) from None
        except TimeoutError:
            raise Busy(f"{target}: no answer in time: the server is busy or hangs; not retried") from None
        except aiohttp.ServerDisconnectedError:  # the server closed an idle connection
            raise Retryable(Unreachable(f"{target}: the server closed the connection")) from None
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise StaleEndpoint(Unreachable(f"{target}: {_reason(error)}")) from None
        answer = Answer(response.status, content)
        if answer.status != 200:
            self._raise_for_status(target, answer, response.headers.get("retry-after"), endpoint.api_key)
        raw = answer.json()
        if not isinstance(raw, dict):
            raise MalformedAnswer(f"{target}: HTTP 200 with a body that is not a JSON object: check the address")
        return raw

    def _raise_for_status(self, target: str, answer: Answer, retry_after: str | None, key: str) -> None:
        message = sanitize(answer.message(), key)
        text = f"{target}: HTTP {answer.status}: {message}"
        if answer.status in RETRIED_STATUSES:
            kind = Retryable if answer.status == 429 else StaleEndpoint
            raise kind(Busy(text, answer.status, message), retry_after_s(retry_after, time.time()))
        if answer.status == 504:  # the server may still work on it: an application must not repeat it as after a 502
            raise Busy(text, 504, message)
        if answer.status == 401:
            raise StaleEndpoint(KeyRefused(f"{text}; the server refuses the key in the stack's outputs", 401, message))
        raise ServerError(text, answer.status, message)


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > MAX_BYTES:
            raise MalformedAnswer(f"the answer is larger than {MAX_BYTES} bytes")
    return bytes(content)


def _reason(error: Exception) -> str:
    """Return the reason without the error's own text, which may contain the request."""
    cause = error.__cause__ or error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else "") or type(error).__name__
