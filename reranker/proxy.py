"""`rerank proxy`: plain HTTP for applications on this machine; TLS, CA, key and the stack's address are its business.

Started by `proxy_command`, on aiohttp. Requests are translated by `dialects` and asked by `upstream`.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from reranker.answers import read_models
from reranker.dialects import CUT_AT_MODEL_LENGTH, Asked, Route, Scored, answer, info, read, refusal, route
from reranker.errors import Busy, InvalidInput, RerankerError, ServerError, Unreachable
from reranker.proxy_metrics import Metrics
from reranker.upstream import Upstream

# A name that leads to this machine's loopback: its own, and the one by which a container on a desktop reaches it.
LOOPBACK_NAMES = frozenset({"localhost", "host.docker.internal"})
HEALTH_S = 5.0
IDLE_S = 75.0


@dataclass(frozen=True)
class Options:
    """Where the proxy listens, and its bounds. `key` "" takes requests without one.

    `aliases`: names that are taken for the stack's model; "*" takes any. `deadline_s`: of a request, repetitions
    included, and of the stop. `follow_s`: how often to look whether the stack has moved; 0: only when it fails.
    `max_requests`: at once; more are answered 503.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    key: str = field(default="", repr=False)
    aliases: frozenset[str] = frozenset()
    deadline_s: float = 60.0
    follow_s: float = 30.0
    max_body_bytes: int = 32 << 20
    max_requests: int = 256
    max_connections: int = 1024

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address leads to the machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES or host.endswith(".localhost")


class Refused(Exception):
    """An answer that is given in the stack's place: status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Proxy:
    """Answers requests in the dialects of `dialects` with the scores of the stack."""

    def __init__(self, upstream: Upstream, options: Options) -> None:
        self.upstream, self.options, self.metrics = upstream, options, Metrics(upstream.events)
        self._operations: dict[tuple[str, str], Callable[[Route, web.Request, float], Awaitable[Any]]] = {
            ("POST", "rerank"): self._rerank,
            ("POST", "score"): self._score,
            ("GET", "models"): self._models,
            ("GET", "info"): self._info,
            ("GET", "health"): self._health,
        }

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=self.options.max_body_bytes)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request; whatever goes wrong is an answer too."""
        began = time.monotonic()
        where = route(request.path)
        dialect = where.dialect if where else ""
        self.metrics.in_flight += 1
        try:
            if where and where.operation == "metrics" and request.method == "GET":
                self._admit(request)
                return web.Response(text=self.metrics.text(), content_type="text/plain")
            async with asyncio.timeout(self.options.deadline_s + 1):  # the body's way here is in it
                body = await self._answer(where, request, began + self.options.deadline_s)
            status = 200
        except Refused as error:
            status, body = error.status, refusal(dialect, error.status, str(error))
        except web.HTTPRequestEntityTooLarge:
            text = f"the body is larger than {self.options.max_body_bytes} bytes"
            status, body = 413, refusal(dialect, 413, text)
        except TimeoutError:
            status, body = 408, refusal(dialect, 408, "the request did not come in time")
        except RerankerError as error:
            status = status_of(error)
            body = refusal(dialect, status, str(error))
        finally:
            self.metrics.in_flight -= 1
        operation = where.operation if where else "other"
        self.metrics.count(operation, status, time.monotonic() - began)
        headers = {"Retry-After": "1"} if status == 503 else {}
        return web.json_response(body, status=status, headers=headers, dumps=_dumps)

    async def _answer(self, where: Route | None, request: web.Request, deadline: float) -> Any:
        operation = self._operations.get((request.method, where.operation)) if where else None
        if where is None:
            raise Refused(404, f"{request.path} is no path of this proxy: /rerank, /v1/rerank, /v2/rerank, /score")
        if operation is None:
            raise Refused(405, f"{request.method} is not taken here")
        self._admit(request)
        if self.metrics.in_flight > self.options.max_requests:
            raise Refused(503, f"more than {self.options.max_requests} requests at once")
        return await operation(where, request, deadline)

    def _admit(self, request: web.Request) -> None:
        """Raise Refused for a request without the key, which only /health needs not, or one of a page in a browser."""
        if self.options.key and not request.path.endswith("/health"):
            headers = request.headers.getall("Authorization", [])
            scheme, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
            same = hmac.compare_digest(given.strip().encode(), self.options.key.encode())
            if scheme.lower() != "bearer" or not same:
                raise Refused(401, "a valid key is needed: Authorization: Bearer <the proxy's key>")
        elif self.options.is_loopback and not is_loopback(request.url.host or ""):
            raise Refused(421, "this proxy is for programs on its own machine: ask it as 127.0.0.1 or localhost")
        if request.method == "POST" and request.content_type != "application/json":
            raise Refused(415, "Content-Type: application/json is needed")

    async def _body(self, request: web.Request) -> Any:
        try:
            return json.loads(await request.read())
        except (ValueError, RecursionError):
            raise InvalidInput("the body is not JSON in UTF-8") from None

    def _checked_model(self, name: object) -> None:
        served = self.upstream.link.endpoint.model
        if name and served and name != served and not self.options.aliases & {str(name), "*"}:
            raise Refused(
                404, f"The model `{name}` does not exist; served: {served}. The proxy takes it for that: --alias {name}"
            )

    async def _rerank(self, where: Route, request: web.Request, deadline: float) -> Any:
        asked: Asked = read(where, await self._body(request))
        self._checked_model(asked.model)
        results, model, tokens = await self.upstream.rerank(asked, deadline)
        self.metrics.documents += len(asked.documents)
        return answer(asked, Scored(results, model, f"rerank-{uuid.uuid4().hex}", tokens))

    async def _score(self, where: Route, request: web.Request, deadline: float) -> Any:
        body = await self._body(request)
        if not isinstance(body, dict):
            raise InvalidInput("the body is not a JSON object")
        self._checked_model(body.pop("model", None))
        body.setdefault("truncate_prompt_tokens", CUT_AT_MODEL_LENGTH)
        return await self.upstream.ask("POST", "/score", body, deadline)

    async def _models(self, where: Route, request: web.Request, deadline: float) -> Any:
        return await self.upstream.ask("GET", "/v1/models", None, deadline)

    async def _info(self, where: Route, request: web.Request, deadline: float) -> Any:
        served = read_models(await self._models(where, request, deadline))
        name = self.upstream.link.endpoint.model or (served[0].id if served else "")
        return info(name, served[0].max_model_len if served else None, self.upstream.limits.documents)

    async def _health(self, where: Route, request: web.Request, deadline: float) -> Any:
        """Return that the stack answers to the key; 503 where it does not."""
        try:
            await self._models(where, request, min(deadline, time.monotonic() + HEALTH_S))
        except RerankerError as error:
            raise Refused(503, str(error)) from None
        return {"status": "ok", "model": self.upstream.link.endpoint.model}


def status_of(error: RerankerError) -> int:
    """Return the status that says to an application what went wrong: no 401, since the key is not the application's."""
    if isinstance(error, InvalidInput):
        return 400
    if isinstance(error, Busy):
        return error.status if error.status in (429, 503) else 504
    if isinstance(error, ServerError) and error.status in (400, 413, 422):
        return error.status
    return 503 if isinstance(error, Unreachable) else 502


async def serve(proxy: Proxy, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; then take no more, and let requests under way end. `ready` gets the address."""
    options = proxy.options
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        proxy.application(),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=IDLE_S,
        shutdown_timeout=options.deadline_s,
    )
    await runner.setup()
    try:
        await proxy.upstream.start()
        accept = runner.server
        if accept is None:
            raise RuntimeError("setup() makes a server")

        def connection() -> asyncio.BaseProtocol:
            return accept() if len(accept.connections) < options.max_connections else _Full()

        listener = await loop.create_server(connection, options.host, options.port)
        port = listener.sockets[0].getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        ready(f"http://{host}:{port}")
        while not await _is_set(stop, options.follow_s or None):
            await proxy.upstream.follow(proxy.upstream.link)
        listener.close()
    finally:
        await runner.cleanup()
        await proxy.upstream.close()


async def _is_set(event: asyncio.Event, within_s: float | None) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False


class _Full(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
