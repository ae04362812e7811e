"""The stack as the proxy asks it: over TLS, in batches, repeated until a deadline, and wherever it has moved to.

Called by `proxy`, on aiohttp. Address, key and CA come from a function that is called again when they seem to be out of
date: nothing answers there, or the key is refused. Requests under way end on the old connections.
"""

from __future__ import annotations

import asyncio
import json
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
from reranker.dialects import Asked
from reranker.endpoint import Endpoint
from reranker.errors import Busy, KeyRefused, MalformedAnswer, RerankerError, ServerError, Unreachable, Untrusted
from reranker.http import Answer, bearer, tls_context
from reranker.patience import NOT_NOW, Patience, retry_after_s
from reranker.transport import MAX_BYTES, Retryable, shown

# vLLM closes a connection that was idle for 5 s: one of that age may be closed at the moment it is used again.
KEEP_S = 4.0
# A machine that dies says nothing: after so many seconds without a sign from it a connection is given up.
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 5, 5, 3
# How long a refused key is taken for one that was just changed, and how often the source is read at most.
KEY_GRACE_S = 10.0
REREAD_S = 1.0
BATCHES_AT_ONCE = 4
Found = list[tuple[int, float]]


@dataclass(frozen=True)
class Link:
    """An endpoint and the connections to it."""

    endpoint: Endpoint
    session: aiohttp.ClientSession

    @classmethod
    def to(cls, endpoint: Endpoint, connect_s: float) -> Link:
        context = endpoint.ssl_context() or tls_context()
        connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=KEEP_S, socket_factory=_probed_socket)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        headers = {**bearer(endpoint.api_key), "Accept": "application/json"}
        return cls(endpoint, aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers))


def _probed_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", 1000 * (PROBE_AFTER_S + PROBE_EVERY_S * PROBES)),
    ):
        if hasattr(socket, option):  # they are Linux's
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


class Stale(Retryable):
    """Asking again may help, and so may another address or key: the source is read first."""


class Upstream:
    """Asks the stack. `source` returns where it is now, or raises RerankerError; it may block.

    `events` counts "retries", "rereads" and "moves"; `say` gets a line for each move and each failed reading.
    """

    def __init__(
        self,
        source: Callable[[], Endpoint],
        patience: Patience,
        *,
        limits: Limits | None = None,
        say: Callable[[str], None] = lambda line: None,
        chance: Callable[[], float] = random,
    ) -> None:
        self._source, self.patience, self.limits, self._say = source, patience, limits or Limits(), say
        self._chance = chance
        self.events: Counter[str] = Counter(retries=0, rereads=0, moves=0)
        self._link: Link | None = None
        self._reading = asyncio.Lock()
        self._read_at = 0.0
        self._retired: set[asyncio.Task[None]] = set()
        self._max_model_len: tuple[Link, int | None] | None = None

    @property
    def link(self) -> Link:
        if self._link is None:
            raise RuntimeError("start() comes first")
        return self._link

    async def start(self) -> None:
        """Read the source for the first time. Raises RerankerError."""
        self._link = Link.to(await asyncio.to_thread(self._source), self.patience.connect_s)
        self._read_at = time.monotonic()

    async def close(self) -> None:
        """Close all connections."""
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)
        if self._link:
            await self._link.session.close()

    async def follow(self, seen: Link) -> bool:
        """Read the source, unless that was done a moment ago, and say whether the stack is elsewhere than `seen`."""
        async with self._reading:
            if self.link is not seen or time.monotonic() < self._read_at + REREAD_S:
                return self.link is not seen
            self.events["rereads"] += 1
            try:
                endpoint = await asyncio.to_thread(self._source)
            except RerankerError as error:
                self._say(f"the stack's outputs cannot be read, so the last ones stay: {error}")
                return False
            finally:
                self._read_at = time.monotonic()
            if endpoint == seen.endpoint:
                return False
            self._link = Link.to(endpoint, self.patience.connect_s)
            self.events["moves"] += 1
            self._say(f"the stack is at {endpoint.url} now" if endpoint.url != seen.endpoint.url else "new key or CA")
            task = asyncio.create_task(self._retire(seen))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
            return True

    async def _retire(self, link: Link) -> None:
        try:
            await asyncio.sleep(self.patience.deadline_s)
        finally:
            await link.session.close()

    async def max_model_len(self, deadline: float) -> int | None:
        """Return how many tokens the model reads, None where the server does not say."""
        if self._max_model_len is None or self._max_model_len[0] is not self.link:
            link = self.link
            served = read_models(await self.ask("GET", "/v1/models", None, deadline))
            self._max_model_len = (link, served[0].max_model_len if served else None)
        return self._max_model_len[1]

    async def rerank(self, asked: Asked, deadline: float) -> tuple[Found, str, int]:
        """Return (index, score) best first, the model, and the tokens that were read."""
        fixed: dict[str, Any] = {"query": asked.query, **asked.extra}
        # more than the model reads is no limit to this one; Haystack always sends 4096, which vLLM refuses
        longest = asked.max_tokens_per_doc and await self.max_model_len(deadline)
        if asked.max_tokens_per_doc and longest and asked.max_tokens_per_doc < longest:
            fixed["max_tokens_per_doc"] = asked.max_tokens_per_doc
        model, tokens = "", 0

        async def ask(part: range) -> Found:
            nonlocal model, tokens
            cut = {} if asked.top_n is None else {"top_n": min(asked.top_n, len(part))}
            body = {**fixed, **cut, "documents": asked.documents[part.start : part.stop]}
            try:
                raw = await self.ask("POST", "/rerank", body, deadline)
            except ServerError as error:
                if not is_too_large(error) or len(part) < 2:
                    raise
                middle = len(part) // 2
                return await ask(part[:middle]) + await ask(part[middle:])
            model, found = read_ranking(raw, part, asked.top_n)
            usage = raw.get("usage")
            tokens += int(usage.get("prompt_tokens") or 0) if isinstance(usage, dict) else 0
            return found

        size = len(encode({**fixed, "model": self.link.endpoint.model, "top_n": asked.top_n, "documents": []}))
        parts = split("documents", encoded_sizes("documents", asked.documents), size, self.limits)
        turn = asyncio.Semaphore(BATCHES_AT_ONCE)

        async def in_turn(part: range) -> Found:
            async with turn:
                return await ask(part)

        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(in_turn(part)) for part in parts]
        except* RerankerError as errors:
            raise next(one for one in errors.exceptions if isinstance(one, RerankerError)) from None
        scored = sorted((one for task in running for one in task.result()), key=lambda one: (-one[1], one[0]))
        return scored[: asked.top_n], model or self.link.endpoint.model or "", tokens

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float) -> Mapping[str, Any]:
        """Return the JSON object that the stack answers with; a body gets the model's name. Raises RerankerError.

        `deadline` is a moment of time.monotonic.
        """
        attempt, began = 0, time.monotonic()
        while True:
            link = self.link
            try:
                return await self._once(link, method, path, body, deadline)
            except Retryable as late:
                now = time.monotonic()
                if isinstance(late.error, KeyRefused) and now > began + KEY_GRACE_S:
                    raise late.error from None
                moved = isinstance(late, Stale) and await self.follow(link)
                wait_s = 0.0 if moved else self.patience.wait_s(attempt, self._chance(), late.wait_s)
                attempt += not moved
                if time.monotonic() + wait_s >= deadline:
                    raise late.error from None
            self.events["retries"] += 1
            await asyncio.sleep(wait_s)

    async def _once(
        self, link: Link, method: str, path: str, body: Mapping[str, Any] | None, deadline: float
    ) -> Mapping[str, Any]:
        endpoint = link.endpoint
        where = f"{method} {endpoint.url}{path}"
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
            raise Stale(Untrusted(f"{where}: its certificate is not trusted ({reason})")) from None
        except aiohttp.ConnectionTimeoutError:
            connect_s = self.patience.connect_s
            raise Stale(Unreachable(f"{where}: no connection within {connect_s:g} s")) from None
        except TimeoutError:
            raise Busy(f"{where}: no answer in time: it is busy or hangs, and is not asked again") from None
        except aiohttp.ServerDisconnectedError:  # an idle connection that was closed as it was used again
            raise Retryable(Unreachable(f"{where}: it closed the connection")) from None
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise Stale(Unreachable(f"{where}: {_reason(error)}")) from None
        if response.status != 200:
            self._refuse(where, Answer(response.status, content), response.headers.get("retry-after"), endpoint.api_key)
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            raise MalformedAnswer(f"{where}: 200 with a body that is no JSON object: is this address the reranker's?")
        return raw

    def _refuse(self, where: str, answer: Answer, retry_after: str | None, key: str) -> None:
        said = shown(answer.message(), key)
        text = f"{where}: HTTP {answer.status}: {said}"
        if answer.status in NOT_NOW:
            kind = Retryable if answer.status == 429 else Stale
            raise kind(Busy(text, answer.status, said), retry_after_s(retry_after, time.time()))
        if answer.status == 401:
            raise Stale(KeyRefused(f"{text}; the outputs that the proxy follows hold another key", 401, said))
        raise ServerError(text, answer.status, said)


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > MAX_BYTES:
            raise MalformedAnswer(f"the answer is larger than {MAX_BYTES} bytes")
    return bytes(content)


def _reason(error: Exception) -> str:
    """Return what an error says in fixed words: its own text may hold what was sent."""
    cause = error.__cause__ or error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else "") or type(error).__name__
