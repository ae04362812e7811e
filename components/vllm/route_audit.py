"""Audits the routes of a server with unauthorized requests: the server's own list, and further paths.

Called by `checks` after each deploy and by tests/serving. A route is closed if it answers 401 or 404. Paths are sent
unchanged: //rerank does not become /rerank.
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

# Routes of a vLLM 0.32 pooling server, and paths that an attacker would try.
ROUTES_OF_VLLM = (
    "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/v1/models", "/metrics", "/health", "/version",
    "/load", "/ping", "/docs", "/redoc", "/openapi.json", "/tokenize", "/detokenize", "/pooling", "/classify",
    "/v1/embeddings", "/invocations", "/rerank/", "//rerank", "/RERANK", "/%72erank", "/v1/../rerank",
    "/guard/routes", "/guard/keys",
)  # fmt: skip
DEFAULT_METHODS = ("GET", "POST")
MAX_CONCURRENCY = 8
Caller = tuple[Mapping[str, str], bytes]
Routes = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class AuditedRoute:
    """One route: the methods to request, and for each caller the statuses in the order of the methods."""

    path: str
    methods: tuple[str, ...]
    statuses: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


# Routes that answer without a key on a server without a guard.
MAIN_ROUTES = [AuditedRoute(path, ("POST",)) for path in ("/rerank", "/score")]
MAIN_ROUTES += [AuditedRoute(path, ("GET",)) for path in ("/metrics", "/openapi.json")]


def unauthorized_callers(key: str | None) -> dict[str, Caller]:
    """Return headers and body of each unauthorized caller, by name. `key`: the valid key."""
    wrong_key = f"{key[:-1]}{'0' if key[-1] != '0' else '1'}" if key else "not-the-key"
    callers: dict[str, Caller] = {"no key": ({}, PAIR_BODY), "a wrong key": (bearer(wrong_key), PAIR_BODY)}
    if key:
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "X-Api-Key": key, "Api-Key": key}
        headers |= {"Cookie": f"Authorization=Bearer {key}; api_key={key}", "Proxy-Authorization": f"Bearer {key}"}
        body = json.dumps({**json.loads(PAIR_BODY), "api_key": key, "key": key}).encode()
        callers["the key in a wrong place"] = (headers, body)
    return callers


def list_routes(client: RerankClient) -> Routes:
    """Return the server's own list of routes; empty if it has none."""
    try:
        return client.routes()
    except ServerError:  # no guard
        return ()


def routes_to_audit(routes: Routes) -> list[AuditedRoute]:
    """Return the routes to request: the server's own with all their methods, and ROUTES_OF_VLLM."""
    methods_by_path = {path: set[str]() for path in ROUTES_OF_VLLM}
    for path, methods in routes:
        methods_by_path.setdefault(fill_parameters(path), set()).update({*methods} - {*DEFAULT_METHODS})
    return [AuditedRoute(path, (*DEFAULT_METHODS, *sorted(others))) for path, others in methods_by_path.items()]


def fill_parameters(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", path)


def audit_routes(
    client: RerankClient, audited: Sequence[AuditedRoute], callers: Mapping[str, Caller]
) -> list[AuditedRoute]:
    """Request every route with every method as every caller, in parallel.

    Raises ServerUnreachable if a request gets no answer.
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


def markdown_table(audited: Sequence[AuditedRoute]) -> str:
    """Return the routes as a Markdown table: route, methods, and the statuses for each caller."""
    callers = list(audited[0].statuses) if audited else []
    rows = [f"| {' | '.join(['route', 'methods', *callers])} |", "|" + " --- |" * (2 + len(callers))]
    for route in audited:
        statuses = [" ".join(map(str, dict.fromkeys(route.statuses[caller]))) for caller in callers]
        rows.append(f"| {' | '.join([route.path, ' '.join(route.methods), *statuses])} |")
    return "\n".join(rows)
