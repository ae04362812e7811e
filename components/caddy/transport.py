"""One exchange with Caddy's admin API, over TCP, TLS or a unix socket. The seam that tests replace; used by `admin`.

Each call has a connection of its own: Caddy replaces its admin listener on changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from reranker import http
from reranker.http import Answer, Unanswered

__all__ = ["Answer", "HttpTransport", "Transport", "Unanswered"]


class Transport(Protocol):
    """Sends one request and returns the answer; raises Unanswered."""

    def __call__(self, method: str, path: str, *, body: str | None, headers: Mapping[str, str]) -> Answer:
        """Send `body`, if there is one, as JSON."""


class HttpTransport:
    """The real one. `url`: http(s)://host:port, with a path where the API is behind one, or unix:///path.

    `ca`: PEM text that https is verified against; public CAs where it is empty. `timeout_s` bounds a whole call.
    """

    def __init__(self, url: str, *, ca: str = "", timeout_s: float = 30.0) -> None:
        is_unix = url.startswith("unix:")
        self.base = "http://localhost" if is_unix else url.rstrip("/")
        self.timeout_s = timeout_s
        self._send = http.HttpTransport(ca=ca, unix_socket=urlsplit(url).path if is_unix else "")

    def __call__(self, method: str, path: str, *, body: str | None, headers: Mapping[str, str]) -> Answer:
        sent = None if body is None else body.encode()
        return self._send(method, self.base + path, body=sent, headers=headers, timeout_s=self.timeout_s)
