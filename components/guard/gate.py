"""Handles one request: access control, limits, then vLLM's answer or an error of the guard. Writes the request log.

Called by `server` with parsed requests; has no sockets itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .certificate import MAX_PEM_BYTES, CertificateStore
from .judging import Worker
from .keys import CLIENT, MANAGEMENT, Access, Key, KeyStore, parse
from .last_check import CHECK, LastCheck
from .messages import Headers
from .rules import ALLOW, KEYS, MANAGED, METRICS, ROUTES, SCORED, JudgedBody, Refusal, Rules, judge
from .upstream import STARTING, VllmAnswer, VllmUpstream

# Bodies from this size on are validated in a second process: parsing them would block the event loop.
LARGE_BYTES = 64 << 10
# Limits in flight: tokens (upper limit, see rules) per key name and in total, and bytes of bodies in memory.
MAX_TOKENS_OF_A_NAME = 8 << 20
MAX_TOKENS = 32 << 20
MAX_HELD_BYTES = 128 << 20
RETRY_AFTER_S = 1
TOTAL_TOKENS = re.compile(rb'(?<!\\)"total_tokens":\s*(\d+)')
EDGE_BYTES = 2048  # size of the parts at the start and end of an answer that may contain TOTAL_TOKENS
FORWARDED_HEADERS = (b"content-type", b"accept", b"x-request-id")
ERROR_TYPES = {401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError"}
ERROR_TYPES |= {413: "RequestTooLarge", 429: "RateLimitError"}
ERROR_TYPES |= {502: "BadGatewayError", 503: "ServiceUnavailableError", 504: "GatewayTimeoutError"}
JSON_TYPE = (b"content-type", b"application/json")


@dataclass
class Request:
    """A request after its header was read. `path` is unchanged, without the query. `certified_until`: the end of the
    connection's client certificate, in seconds since the epoch.
    """

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    certified_until: float = 0.0
    key: Key | None = None
    pairs: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def is_check(self) -> bool:
        return self.key is not None and self.key.manages and bool(self.values(CHECK))

    def values(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for header, value in self.headers if header == name]


@dataclass
class Reply:
    status: int
    headers: Headers
    parts: AsyncIterator[bytes]


@dataclass
class Gate:
    """The guard of one server. It calls `log` with a line for each request with a valid key."""

    rules: Rules
    keys: KeyStore
    upstream: VllmUpstream
    open_paths: frozenset[str] = frozenset()
    certificate: CertificateStore | None = None
    log: Callable[[str], object] = print
    now: Callable[[], float] = time.time
    in_flight: Counter[str] = field(default_factory=Counter)
    held_bytes: int = 0
    counters: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    large_body_locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    worker: Worker = field(default_factory=Worker)
    last_check: LastCheck = field(default_factory=LastCheck)
    context_changed: Callable[[], None] = lambda: None

    @property
    def tls(self) -> ssl.SSLContext | None:
        return self.certificate.context if self.certificate else None

    def admit(self, request: Request) -> None:
        """Check access by the header. Raises Refusal."""
        path = request.path
        if path in self.open_paths and request.method in ("GET", "HEAD"):
            return
        if path not in ALLOW and path not in MANAGED:
            raise Refusal(404, "Not Found")
        certified = request.certified_until > self.now()
        key = self.keys.find(request.values(b"authorization"), request.values(CLIENT), certified=certified)
        if not key.manages and path not in (key.routes or ALLOW):
            raise Refusal(401 if path in MANAGED else 403, f"the key {key.name} has no access to {path}")
        request.key = key
        self.keys.count(key)

    def max_bytes(self, request: Request) -> int:
        return MAX_PEM_BYTES if request.path in MANAGED else self.rules.max_bytes

    @contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Reserve memory for a body. Raises Refusal."""
        if self.held_bytes + size > MAX_HELD_BYTES:
            raise Refusal(429, "too many large requests are in progress", RETRY_AFTER_S)
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size

    @asynccontextmanager
    async def answer(self, request: Request, body: bytes) -> AsyncIterator[Reply]:
        """Answer an admitted request. Raises Refusal."""
        if request.path in MANAGED and request.path != METRICS:
            yield json_reply(200, self._manage(request, body))
            return
        if not self.upstream.is_up:
            raise Refusal(503, STARTING, RETRY_AFTER_S)
        if request.is_check and (cached := self.last_check.cached_answer(body, time.monotonic())):
            yield _reply(200, cached)
            return
        is_scoring = request.path in SCORED and request.method == "POST"
        judged = await self._judge(request, body) if is_scoring else JudgedBody(body)
        request.pairs = judged.pairs
        if request.key is not None and judged.pairs:
            self.keys.count(request.key, pairs=judged.pairs)
        headers = [(name, value) for name, value in request.headers if name in FORWARDED_HEADERS]
        with self._count_in_flight(request.key, judged.tokens):
            # the parser of responses cannot know that one to HEAD has no body
            method = "GET" if request.method == "HEAD" else request.method
            async with self.upstream.ask(method, request.path, headers, judged.body) as answer:
                metrics = self._metrics() if request.path == METRICS else b""
                headers = [header for header in answer.headers if not (metrics and header[0] == b"content-length")]
                yield Reply(answer.status, headers, self._stream(request, body, answer, metrics))

    def _manage(self, request: Request, body: bytes) -> dict[str, Any]:
        if request.path == ROUTES:
            return {"routes": self.upstream.routes}
        if request.path == KEYS:
            if request.method == "PUT":
                self._set_access(parse(body))
            return asdict(self.keys.access)
        if self.certificate is None:
            raise Refusal(404, "this server has no certificate")
        if request.method == "PUT":
            self.certificate.renew(body)
        return {"ends_at": int(self.certificate.ends_at)}

    def _set_access(self, access: Access) -> None:
        if access.client_ca != self.keys.access.client_ca:
            if self.certificate is None:
                raise Refusal(400, "client_ca: this server has no TLS, so clients cannot send certificates")
            self.certificate.set_client_ca(access.client_ca)
            self.context_changed()
        self.keys.set(access)

    async def _judge(self, request: Request, body: bytes) -> JudgedBody:
        if self.rules.fields is not self.upstream.fields:
            self.rules = replace(self.rules, fields=self.upstream.fields)
        if len(body) < LARGE_BYTES:
            return judge(request.path, body, self.rules)
        name = request.key.name if request.key else ""
        async with self.large_body_locks.setdefault(name, asyncio.Lock()):
            return await self.worker.judge(request.path, body, self.rules)

    @contextmanager
    def _count_in_flight(self, key: Key | None, tokens: int) -> Iterator[None]:
        """Count tokens during a request. A single request may exceed the limits. Raises Refusal above them."""
        name = key.name if key else ""
        of_name, total = self.in_flight[name], self.in_flight.total()
        if tokens and of_name and name != MANAGEMENT and of_name + tokens > MAX_TOKENS_OF_A_NAME:
            raise Refusal(429, f"the key {name} has too many tokens in flight", RETRY_AFTER_S)
        if tokens and total and total + tokens > MAX_TOKENS:
            raise Refusal(429, "the queue is full", RETRY_AFTER_S)
        self.in_flight[name] += tokens
        try:
            yield
        finally:
            self.in_flight[name] -= tokens

    async def _stream(self, request: Request, body: bytes, answer: VllmAnswer, metrics: bytes) -> AsyncIterator[bytes]:
        """Yield an answer's body, then `metrics`. Record the tokens that vLLM used, and the answer for `last_check`."""
        first = last = b""
        is_check, copy = request.is_check, bytearray()
        async for part in answer.parts():
            first = first or part[:EDGE_BYTES]
            last = (last + part)[-EDGE_BYTES:]
            copy += part if is_check else b""
            yield part
        match = (TOTAL_TOKENS.search(first) or TOTAL_TOKENS.search(last)) if request.pairs else None
        request.tokens = int(match[1]) if match else 0
        if answer.status == 200 and is_check:
            self.last_check.store(body, bytes(copy), time.monotonic())
        elif answer.status == 200 and request.pairs:
            self.last_check.served_at = time.monotonic()
        if metrics:
            yield metrics

    def record(self, request: Request, status: int) -> None:
        """Count and log a finished request. The log contains no document, no query and no key."""
        name = request.key.name if request.key else ""
        self.counters["requests", name, str(status)] += 1
        if request.key is None:
            return
        self.counters["pairs", name, ""] += request.pairs if status == 200 else 0
        self.counters["tokens", name, ""] += request.tokens
        line = {"time": round(self.now(), 3), "key": name, "route": request.path, "pairs": request.pairs}
        ms = round((time.monotonic() - request.started) * 1000, 1)
        self.log(json.dumps(line | {"tokens": request.tokens, "status": status, "ms": ms}))

    def _metrics(self) -> bytes:
        lines = []
        for metric in ("requests", "pairs", "tokens"):
            lines.append(f"# TYPE guard_{metric}_total counter")
            for (counter, name, status), count in sorted(self.counters.items()):
                label = f',status="{status}"' if status else ""
                lines += [f'guard_{metric}_total{{key="{name}"{label}}} {count}'] if counter == metric else []
        lines += ["# TYPE guard_tokens_in_flight gauge", f"guard_tokens_in_flight {self.in_flight.total()}", ""]
        return "\n".join(lines).encode()

    def close(self) -> None:
        self.worker.close()


def json_reply(status: int, content: object, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    return _reply(status, json.dumps(content).encode(), headers)


def _reply(status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    async def parts() -> AsyncIterator[bytes]:
        yield body

    return Reply(status, [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers], parts())


def error_reply(refusal: Refusal) -> Reply:
    """Return an error in vLLM's form."""
    status = refusal.status
    error_type = ERROR_TYPES.get(status, "BadRequestError")
    headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
    if refusal.retry_after_s:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
    error = {"message": refusal.message, "type": error_type, "param": None, "code": status}
    return json_reply(status, {"error": error}, headers)
