"""What is done with one request: who asks, may they, is there room; then vLLM's answer, or the guard's own. With a log.

Knows no sockets: called by `server` with what its parser read.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from .certificate import MAX_PEM_BYTES, CertificateStore
from .judging import Worker
from .keys import CLIENT, MANAGEMENT, Access, Key, KeyStore, parse
from .last_check import CHECK, LastCheck
from .rules import ALLOW, KEYS, MANAGED, METRICS, ROUTES, SCORED, Judged, Refusal, Rules, judge
from .upstream import STARTING, Headers, VllmAnswer, VllmUpstream

# Judged in a process beside: JSON of this size and more would keep the loop from all others.
LARGE_BYTES = 64 << 10
# What may be in flight: tokens (at most, see rules) of one name, of all, and bytes of bodies in memory.
MAX_TOKENS_OF_A_NAME = 8 << 20
MAX_TOKENS = 32 << 20
MAX_HELD_BYTES = 128 << 20
RETRY_AFTER_S = 1
USED = re.compile(rb'(?<!\\)"total_tokens":\s*(\d+)')
EDGE_BYTES = 2048
PASSED_ON = (b"content-type", b"accept", b"x-request-id")
KINDS = {401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError"}
KINDS |= {413: "RequestTooLarge", 429: "RateLimitError"}
KINDS |= {502: "BadGatewayError", 503: "ServiceUnavailableError", 504: "GatewayTimeoutError"}
JSON_TYPE = (b"content-type", b"application/json")


@dataclass
class Request:
    """A request whose header is read, and what comes to be known of it. `path` is as it came, without a query.

    `certified_until`: the end of the client certificate that its connection showed, in seconds since the epoch.
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
    def checks(self) -> bool:
        return self.key is not None and self.key.manages and bool(self.values(CHECK))

    def values(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for found, value in self.headers if found == name]


@dataclass
class Reply:
    """An answer: status, headers, and the body in parts."""

    status: int
    headers: Headers
    parts: AsyncIterator[bytes]


@dataclass
class Gate:
    """One server's guard. `log` gets a line for each request with a valid key."""

    rules: Rules
    keys: KeyStore
    upstream: VllmUpstream
    open_paths: frozenset[str] = frozenset()
    certificate: CertificateStore | None = None
    log: Callable[[str], object] = print
    now: Callable[[], float] = time.time
    in_flight: Counter[str] = field(default_factory=Counter)
    held_bytes: int = 0
    counted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    large: dict[str, asyncio.Lock] = field(default_factory=dict)
    worker: Worker = field(default_factory=Worker)
    last_check: LastCheck = field(default_factory=LastCheck)
    context_changed: Callable[[], None] = lambda: None

    def admit(self, request: Request) -> None:
        """Find out who asks, from the header alone. Raises Refusal."""
        path = request.path
        if path in self.open_paths and request.method in ("GET", "HEAD"):
            return
        if path not in ALLOW and path not in MANAGED:
            raise Refusal(404, "Not Found")
        certified = request.certified_until > self.now()
        key = self.keys.find(request.values(b"authorization"), request.values(CLIENT), certified=certified)
        if not key.manages and path not in (key.routes or ALLOW):
            raise Refusal(401 if path in MANAGED else 403, f"the key {key.name} does not open {path}")
        request.key = key
        self.keys.count(key)

    def max_bytes(self, request: Request) -> int:
        return MAX_PEM_BYTES if request.path in MANAGED else self.rules.max_bytes

    @contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Count bytes of a body that is about to be read. Raises Refusal."""
        if self.held_bytes + size > MAX_HELD_BYTES:
            raise Refusal(429, "too many large requests are under way", RETRY_AFTER_S)
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size

    @asynccontextmanager
    async def answer(self, request: Request, body: bytes) -> AsyncIterator[Reply]:
        """Answer an admitted request. Raises Refusal."""
        if request.path in MANAGED and request.path != METRICS:
            yield document(200, self._managed(request, body))
            return
        if not self.upstream.is_up:
            raise Refusal(503, STARTING, RETRY_AFTER_S)
        if request.checks and (again := self.last_check.again(body, time.monotonic())):
            yield _json(200, again)
            return
        scored = request.path in SCORED and request.method == "POST"
        judged = await self._judged(request, body) if scored else Judged(body)
        request.pairs = judged.pairs
        if request.key is not None and judged.pairs:
            self.keys.count(request.key, pairs=judged.pairs)
        passed = [(name, value) for name, value in request.headers if name in PASSED_ON]
        with self._in_flight(request.key, judged.tokens):
            async with self.upstream.ask(request.method, request.path, passed, judged.body) as answer:
                more = self._metrics() if request.path == METRICS else b""
                headers = [one for one in answer.headers if not (more and one[0] == b"content-length")]
                yield Reply(answer.status, headers, self._observed(request, body, answer, more))

    def _managed(self, request: Request, body: bytes) -> dict[str, Any]:
        if request.path == ROUTES:
            return {"routes": self.upstream.routes}
        if request.path == KEYS:
            if request.method == "PUT":
                self._set(parse(body))
            return self.keys.shown()
        if self.certificate is None:
            raise Refusal(404, "this server has no certificate")
        if request.method == "PUT":
            self.certificate.renew(body)
        return {"ends_at": int(self.certificate.ends_at)}

    def _set(self, access: Access) -> None:
        if access.client_ca != self.keys.access.client_ca:
            if self.certificate is None:
                raise Refusal(400, "client_ca: this server ends no TLS, so it sees no certificate")
            self.certificate.ask_clients(access.client_ca)
            self.context_changed()
        self.keys.set(access)

    async def _judged(self, request: Request, body: bytes) -> Judged:
        rules = replace(self.rules, fields=self.upstream.fields)
        if len(body) < LARGE_BYTES:
            return judge(request.path, body, rules)
        name = request.key.name if request.key else ""
        async with self.large.setdefault(name, asyncio.Lock()):
            return await self.worker.judge(request.path, body, rules)

    @contextmanager
    def _in_flight(self, key: Key | None, tokens: int) -> Iterator[None]:
        """Count tokens while vLLM works on them. One request of a name may be as large as it likes."""
        name = key.name if key else ""
        under_way, all_names = self.in_flight[name], self.in_flight.total()
        if tokens and under_way and name != MANAGEMENT and under_way + tokens > MAX_TOKENS_OF_A_NAME:
            raise Refusal(429, f"the key {name} has as much under way as it may", RETRY_AFTER_S)
        if tokens and all_names and all_names + tokens > MAX_TOKENS:
            raise Refusal(429, "the queue is full", RETRY_AFTER_S)
        self.in_flight[name] += tokens
        try:
            yield
        finally:
            self.in_flight[name] -= tokens

    async def _observed(self, request: Request, asked: bytes, answer: VllmAnswer, more: bytes) -> AsyncIterator[bytes]:
        """Yield an answer's body, and note that it was served, and the tokens that vLLM says it used: at one end of it
        or the other."""
        first = last = b""
        checks, kept = request.checks, bytearray()
        async for part in answer.parts():
            first = first or part[:EDGE_BYTES]
            last = (last + part)[-EDGE_BYTES:]
            kept += part if checks else b""
            yield part
        found = (USED.search(first) or USED.search(last)) if request.pairs else None
        request.tokens = int(found[1]) if found else 0
        if answer.status == 200 and checks:
            self.last_check.passed(asked, bytes(kept), time.monotonic())
        elif answer.status == 200 and request.pairs:
            self.last_check.served_at = time.monotonic()
        if more:
            yield more

    def record(self, request: Request, status: int) -> None:
        """Count and log a request that is over: no document, no query, no key."""
        name = request.key.name if request.key else ""
        self.counted["requests", name, str(status)] += 1
        if request.key is None:
            return
        self.counted["pairs", name, ""] += request.pairs if status == 200 else 0
        self.counted["tokens", name, ""] += request.tokens
        line = {"time": round(self.now(), 3), "key": name, "route": request.path, "pairs": request.pairs}
        ms = round((time.monotonic() - request.started) * 1000, 1)
        self.log(json.dumps(line | {"tokens": request.tokens, "status": status, "ms": ms}))

    def _metrics(self) -> bytes:
        lines = []
        for what in ("requests", "pairs", "tokens"):
            lines.append(f"# TYPE guard_{what}_total counter")
            for (found, name, status), count in sorted(self.counted.items()):
                label = f',status="{status}"' if status else ""
                lines += [f'guard_{what}_total{{key="{name}"{label}}} {count}'] if found == what else []
        lines += ["# TYPE guard_tokens_in_flight gauge", f"guard_tokens_in_flight {self.in_flight.total()}", ""]
        return "\n".join(lines).encode()

    def close(self) -> None:
        self.worker.close()


def document(status: int, content: object, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """Return an answer in JSON."""
    return _json(status, json.dumps(content).encode(), headers)


def _json(status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    async def parts() -> AsyncIterator[bytes]:
        yield body

    return Reply(status, [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers], parts())


def refused(refusal: Refusal) -> Reply:
    """Return an error in vLLM's own shape."""
    status = refusal.status
    kind = KINDS.get(status, "BadRequestError")
    headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
    if refusal.retry_after_s:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
    error = {"message": refusal.message, "type": kind, "param": None, "code": status}
    return document(status, {"error": error}, headers)
