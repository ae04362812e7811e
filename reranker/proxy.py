"""`rerank proxy`: serves a stack over plain HTTP to applications on this machine. Started by `proxy_command`.

`dialects` translates requests and responses; `upstream` sends the requests to the stack.
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

from reranker import dialects
from reranker.answers import read_models
from reranker.dialects import CUT_AT_MODEL_LENGTH, RerankResult, Route
from reranker.errors import Busy, InvalidInput, RerankerError, ServerError, Unreachable
from reranker.proxy_metrics import Metrics
from reranker.upstream import Upstream

# Names of this machine's loopback; Docker Desktop's containers use host.docker.internal.
LOOPBACK_NAMES = frozenset({"localhost", "host.docker.internal"})
HEALTH_TIMEOUT_S = 5.0
IDLE_S = 75.0


@dataclass(frozen=True)
class Options:
    """Listen address and limits of the proxy. `key`: "" accepts requests without a key.

    `aliases`: other accepted names of the model; "*" accepts any name. `deadline_s`: limit of a request with its
    retries, and of the shutdown. `follow_s`: interval between reads of the stack's outputs; 0: only after failures.
    `max_requests`: concurrent requests; further requests get 503.
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
    """Whether a host name or address is this machine's loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES or host.endswith(".localhost")


class HttpError(Exception):
    """An error response of the proxy itself."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Proxy:
    """The HTTP application: translates requests, sends them to the stack, translates the results."""

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
        app = web.Application(client_max_size=self.options.max_body_bytes)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.Response:
        """Return the response to a request, also for errors."""
        started = time.monotonic()
        route = dialects.parse_route(request.path)
        self.metrics.in_flight += 1
        text = ""
        try:
            if route and route.operation == "metrics" and request.method == "GET":
                self._check_access(request)
                return web.Response(text=self.metrics.text(), content_type="text/plain")
            async with asyncio.timeout(self.options.deadline_s + 1):  # includes receiving the body
                body = await self._dispatch(route, request, started + self.options.deadline_s)
            status = 200
        except HttpError as error:
            status, text = error.status, str(error)
        except web.HTTPRequestEntityTooLarge:
            status, text = 413, f"the body is larger than {self.options.max_body_bytes} bytes"
        except TimeoutError:
            status, text = 408, "the request did not arrive in time"
        except RerankerError as error:
            status, text = http_status(error), str(error)
        finally:
            self.metrics.in_flight -= 1
        if status != 200:
            body = dialects.error_body(route.dialect if route else "", status, text)
        self.metrics.count(route.operation if route else "other", status, time.monotonic() - started)
        headers = {"Retry-After": "1"} if status == 503 else {}
        kind = "application/json"
        return web.Response(body=json.dumps(body), status=status, headers=headers, content_type=kind, charset="utf-8")

    async def _dispatch(self, route: Route | None, request: web.Request, deadline: float) -> Any:
        if route is None:
            raise HttpError(404, f"unknown path {request.path}; paths: /rerank, /v1/rerank, /v2/rerank, /score")
        operation = self._operations.get((request.method, route.operation))
        if operation is None:
            raise HttpError(405, f"the method {request.method} is not allowed")
        self._check_access(request)
        if self.metrics.in_flight > self.options.max_requests:
            raise HttpError(503, f"more than {self.options.max_requests} requests at once")
        return await operation(route, request, deadline)

    def _check_access(self, request: web.Request) -> None:
        """Raise HttpError for a request without the key (/health needs none) or from a web page in a browser."""
        if self.options.key and not request.path.endswith("/health"):
            headers = request.headers.getall("Authorization", [])
            scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
            is_valid = hmac.compare_digest(token.strip().encode(errors="replace"), self.options.key.encode())
            if scheme.lower() != "bearer" or not is_valid:
                raise HttpError(401, "a valid key is required: Authorization: Bearer <the proxy's key>")
        elif self.options.is_loopback and not is_loopback(request.url.host or ""):
            raise HttpError(421, "the proxy serves only its own machine: use the host 127.0.0.1 or localhost")
        if request.method == "POST" and request.content_type != "application/json":
            raise HttpError(415, "Content-Type: application/json is required")

    async def _body(self, request: web.Request) -> Any:
        try:
            return json.loads(await request.read())
        except (ValueError, RecursionError):
            raise InvalidInput("the body is not JSON in UTF-8") from None

    def _check_model(self, name: object) -> None:
        served = self.upstream.link.endpoint.model
        if name and served and name != served and not self.options.aliases & {str(name), "*"}:
            raise HttpError(
                404, f"The model `{name}` does not exist; served: {served}. To accept the name: --alias {name}"
            )

    async def _rerank(self, route: Route, request: web.Request, deadline: float) -> Any:
        rerank = dialects.parse_request(route, await self._body(request))
        self._check_model(rerank.model)
        results, model, tokens = await self.upstream.rerank(rerank, deadline)
        self.metrics.documents += len(rerank.documents)
        return dialects.format_answer(rerank, RerankResult(results, model, f"rerank-{uuid.uuid4().hex}", tokens))

    async def _score(self, route: Route, request: web.Request, deadline: float) -> Any:
        body = await self._body(request)
        if not isinstance(body, dict):
            raise InvalidInput("the body is not a JSON object")
        self._check_model(body.pop("model", None))
        body.setdefault("truncate_prompt_tokens", CUT_AT_MODEL_LENGTH)
        return await self.upstream.request("POST", "/score", body, deadline)

    async def _models(self, route: Route, request: web.Request, deadline: float) -> Any:
        return await self.upstream.request("GET", "/v1/models", None, deadline)

    async def _info(self, route: Route, request: web.Request, deadline: float) -> Any:
        served = read_models(await self._models(route, request, deadline))
        name = self.upstream.link.endpoint.model or (served[0].id if served else "")
        return dialects.tei_info(name, served[0].max_model_len if served else None, self.upstream.limits.documents)

    async def _health(self, route: Route, request: web.Request, deadline: float) -> Any:
        try:
            await self._models(route, request, min(deadline, time.monotonic() + HEALTH_TIMEOUT_S))
        except RerankerError as error:
            raise HttpError(503, str(error)) from None
        return {"status": "ok", "model": self.upstream.link.endpoint.model}


def http_status(error: RerankerError) -> int:
    """Return the status for an application. It is never 401: the refused key is the proxy's, not the application's."""
    if isinstance(error, InvalidInput):
        return 400
    if isinstance(error, Busy):
        return error.status if error.status in (429, 503) else 504
    if isinstance(error, ServerError) and error.status in (400, 413, 422):
        return error.status
    return 503 if isinstance(error, Unreachable) else 502


async def serve(proxy: Proxy, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish the current requests. Calls `ready` with the address of the proxy."""
    options = proxy.options
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
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
        server = runner.server
        if server is None:
            raise RuntimeError("setup() did not create a server")

        def make_protocol() -> asyncio.BaseProtocol:
            return server() if len(server.connections) < options.max_connections else _CloseAtOnce()

        listener = await loop.create_server(make_protocol, options.host, options.port)
        port = listener.sockets[0].getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        ready(f"http://{host}:{port}")
        while not await _is_set(stop, options.follow_s or None):
            await proxy.upstream.follow(proxy.upstream.link)
        listener.close()
    finally:
        await runner.cleanup()
        await proxy.upstream.close()


async def _is_set(event: asyncio.Event, timeout_s: float | None) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False


class _CloseAtOnce(asyncio.Protocol):
    """The protocol of connections above `max_connections`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
