"""Every route of a server: its own list, what an attacker would try besides, and which callers each admits.

Called by `checks` after each deploy and by tests/serving. A route is closed when it says 401 or 404. Paths are sent as
they are written, as an attacker would: //rerank is not made /rerank first.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from components.errors import ServerError
from components.vllm.client import PAIR_BODY, RerankClient
from reranker.http import bearer

# What a vLLM 0.32 pooling server registers, and what an attacker would try besides; for a server that lists no routes.
ROUTES_OF_VLLM = (
    "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/v1/models", "/metrics", "/health", "/version",
    "/load", "/ping", "/docs", "/redoc", "/openapi.json", "/tokenize", "/detokenize", "/pooling", "/classify",
    "/v1/embeddings", "/invocations", "/rerank/", "//rerank", "/RERANK", "/%72erank", "/v1/../rerank",
    "/guard/routes", "/guard/keys",
)  # fmt: skip
ALWAYS = ("GET", "POST")
MAX_CONCURRENCY = 8
Caller = tuple[Mapping[str, str], bytes]
Routes = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class AuditedRoute:
    """One route: the methods to try, and by caller the statuses that came, in the order of the methods."""

    path: str
    methods: tuple[str, ...]
    statuses: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


# Routes on which a server without its guard answers anyone.
MAIN = (("/rerank", "POST"), ("/score", "POST"), ("/metrics", "GET"), ("/openapi.json", "GET"))
MAIN_ROUTES = [AuditedRoute(path, (method,)) for path, method in MAIN]


def unauthorized_callers(key: str | None) -> dict[str, Caller]:
    """Return unauthorized callers, by name: the headers and the body of each. `key` is the valid one."""
    near = f"{key[:-1]}{'0' if key[-1] != '0' else '1'}" if key else "not-the-key"
    found: dict[str, Caller] = {"no key": ({}, PAIR_BODY), "a wrong key": (bearer(near), PAIR_BODY)}
    if key:
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "X-Api-Key": key, "Api-Key": key}
        headers |= {"Cookie": f"Authorization=Bearer {key}; api_key={key}", "Proxy-Authorization": f"Bearer {key}"}
        body = json.dumps({**json.loads(PAIR_BODY), "api_key": key, "key": key}).encode()
        found["the key in a wrong place"] = (headers, body)
    return found


def routes_of(client: RerankClient) -> Routes:
    """Return the server's own list of its routes; empty where it has none to give."""
    try:
        return client.routes()
    except ServerError:  # no guard, or not a Starlette application behind it
        return ()


def routes_to_audit(routes: Routes) -> list[AuditedRoute]:
    """Return the routes to try: the server's own by all their methods, and ROUTES_OF_VLLM."""
    methods: dict[str, set[str]] = {path: set(ALWAYS) for path in ROUTES_OF_VLLM}
    for path, own in routes:
        methods.setdefault(filled(path), set(ALWAYS)).update(own)
    return [AuditedRoute(path, (*ALWAYS, *sorted(own - set(ALWAYS)))) for path, own in methods.items()]


def filled(path: str) -> str:
    """Return a route's path with its parameters filled in."""
    return re.sub(r"\{[^}]*\}", "x", path)


def audit_routes(
    client: RerankClient, audited: Sequence[AuditedRoute], callers: Mapping[str, Caller]
) -> list[AuditedRoute]:
    """Request every route by every method as every caller, some at once.

    Raises ServerUnreachable when a request finds no answer.
    """

    def audit(route: AuditedRoute) -> AuditedRoute:
        statuses = {
            caller: tuple(client.status(method, route.path, headers, body) for method in route.methods)
            for caller, (headers, body) in callers.items()
        }
        return replace(route, statuses=statuses)

    pool = ThreadPoolExecutor(max(1, min(MAX_CONCURRENCY, len(audited) // 4)), "route-audit")
    try:
        return list(pool.map(audit, audited))
    finally:
        pool.shutdown(cancel_futures=True)


def table(audited: Sequence[AuditedRoute]) -> str:
    """Return the routes as a Markdown table: route, methods, and what each caller was told."""
    callers = list(audited[0].statuses) if audited else []
    rows = [f"| {' | '.join(['route', 'methods', *callers])} |", "|" + " --- |" * (2 + len(callers))]
    for route in audited:
        statuses = [" ".join(map(str, dict.fromkeys(route.statuses[caller]))) for caller in callers]
        rows.append(f"| {' | '.join([route.path, ' '.join(route.methods), *statuses])} |")
    return "\n".join(rows)
