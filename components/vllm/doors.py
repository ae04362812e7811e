"""Every door of a server: its own list of routes, what a stranger would try besides, and who is let in where.

Called by `checks` after each deploy and by tests/serving. A door is closed when it says 401 or 404. Requests go out
letter for letter as given: a client library would tidy a path up first, which is what a door must withstand.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlencode

from components.errors import ServerError
from components.vllm.client import KNOCK, Line, RerankClient

# What a vLLM 0.32 pooling server registers, and what a stranger would try besides; for a server that lists no routes.
DOORS = (
    "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/v1/models", "/metrics", "/health", "/version",
    "/load", "/ping", "/docs", "/redoc", "/openapi.json", "/tokenize", "/detokenize", "/pooling", "/classify",
    "/v1/embeddings", "/invocations", "/rerank/", "//rerank", "/RERANK", "/%72erank", "/v1/../rerank",
    "/guard/routes", "/guard/keys",
)  # fmt: skip
ALWAYS = ("GET", "POST")
AT_ONCE = 8
Asked = tuple[str, dict[str, str], bytes]
Who = Callable[[str], Asked]
Routes = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Door:
    """One route: its methods as asked, and for each who, the statuses that came, in the order of the methods."""

    path: str
    methods: tuple[str, ...]
    statuses: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return plain data: {"path", "methods", who: [statuses]}."""
        return {
            "path": self.path,
            "methods": list(self.methods),
            **{who: [*all_] for who, all_ in self.statuses.items()},
        }


# Where a server without its guard would answer anyone.
MAIN = (("/rerank", "POST"), ("/score", "POST"), ("/metrics", "GET"), ("/openapi.json", "GET"))
MAIN_DOORS = [Door(path, (method,)) for path, method in MAIN]


def strangers(key: str | None, *, in_query: bool = False) -> dict[str, Who]:
    """Return those who may not come in, by name, and what each asks: path, headers, body. `key` is the valid one.

    `in_query` puts it there too, for tests: servers log their paths, so a key that is to last must not go there.
    """
    near = f"{key[:-1]}{'0' if key[-1] != '0' else '1'}" if key else "not-the-key"
    bearer = "Authorization", f"Bearer {near}"
    found: dict[str, Who] = {
        "no key": lambda path: (path, {}, KNOCK),
        "a wrong key": lambda path: (path, dict([bearer]), KNOCK),
    }
    if key:
        query = "?" + urlencode({"api_key": key, "key": key, "access_token": key}) if in_query else ""
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "X-Api-Key": key, "Api-Key": key}
        headers |= {"Cookie": f"Authorization=Bearer {key}; api_key={key}", "Proxy-Authorization": f"Bearer {key}"}
        body = json.dumps({**json.loads(KNOCK), "api_key": key, "key": key}).encode()
        found["the key in a wrong place"] = lambda path: (path + query, headers, body)
    return found


def routes_of(client: RerankClient) -> Routes:
    """Return the server's own list of its routes; empty where it has none to give."""
    try:
        return client.routes()
    except ServerError:  # no guard, or not a Starlette application behind it
        return ()


def doors_of(routes: Routes) -> list[Door]:
    """Return the doors to try: the server's routes by all their methods, and DOORS."""
    methods: dict[str, set[str]] = {path: set(ALWAYS) for path in DOORS}
    for path, own in routes:
        methods.setdefault(filled(path), set(ALWAYS)).update(own)
    return [Door(path, (*ALWAYS, *sorted(own - set(ALWAYS)))) for path, own in methods.items()]


def filled(path: str) -> str:
    """Return a route's path with its parameters filled in."""
    return re.sub(r"\{[^}]*\}", "x", path)


def tried(client: RerankClient, doors: Sequence[Door], visitors: Mapping[str, Who]) -> list[Door]:
    """Try every door by every method as every visitor; some at once, each on a line that it keeps.

    Raises ServerUnreachable when a request finds no answer.
    """
    own = threading.local()
    lines: list[Line] = []

    def visit(door: Door) -> Door:
        if not hasattr(own, "line"):
            own.line = client.line()
            lines.append(own.line)
        statuses = {}
        for who, asks in visitors.items():
            path, headers, body = asks(door.path)
            statuses[who] = tuple(own.line.ask(method, path, headers, body) for method in door.methods)
        return Door(door.path, door.methods, statuses)

    with ThreadPoolExecutor(max(1, min(AT_ONCE, len(doors) // 4)), "doors") as pool:
        try:
            return list(pool.map(visit, doors))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for line in lines:
                line.close()


def table(doors: Sequence[Door]) -> str:
    """Return the doors as a Markdown table: route, methods, and what each visitor was told."""
    visitors = list(doors[0].statuses) if doors else []
    lines = [f"| {' | '.join(['route', 'methods', *visitors])} |", "|" + " --- |" * (2 + len(visitors))]
    for door in doors:
        told = [" ".join(map(str, dict.fromkeys(door.statuses[who]))) for who in visitors]
        lines.append(f"| {' | '.join([door.path, ' '.join(door.methods), *told])} |")
    return "\n".join(lines)
