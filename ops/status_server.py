"""The HTTP server of `ops status --serve`: one page, only for this machine. Based on the standard library."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from components.errors import VastRerankerError
from components.vast.address import is_loopback
from ops.engine import without_secrets
from ops.exits import OpsError

FRESH_S = 10.0  # a page is reused for so long
DEADLINE_S = 120.0  # per connection: creating the page sends requests to every server and to Vast.ai
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class StatusServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 until Ctrl-C; port 0 is any free port. `render` returns the page; it runs once at a time."""

    def __init__(self, port: int, render: Callable[[], str], deadline_s: float = DEADLINE_S) -> None:
        self._render, self.deadline_s = render, deadline_s
        self._lock, self._page, self._rendered_at = threading.Lock(), "", -FRESH_S
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def page(self) -> str:
        """Return the page; render it if it is older than FRESH_S. Raises OpsError, VastRerankerError."""
        with self._lock:
            if time.monotonic() - self._rendered_at >= FRESH_S:
                self._page, self._rendered_at = self._render(), time.monotonic()
            return self._page

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        try:
            super().serve_forever(poll_interval)
        except KeyboardInterrupt:
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback when a browser closes the connection."""


class Handler(BaseHTTPRequestHandler):
    """Answers only GET /, and only if the Host header is a loopback address."""

    server: StatusServer

    def setup(self) -> None:
        """Close the connection at its deadline, even if data still arrives."""
        super().setup()
        self._deadline = threading.Timer(self.server.deadline_s, self._close)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # already closed
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not is_loopback(f"http://{hosts[0]}"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, explain="this page needs a loopback address as its host")
        elif self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send_page()

    def _send_page(self) -> None:
        try:
            body = self.server.page().encode()
        except (OpsError, VastRerankerError) as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=without_secrets(str(error)))
            return
        self.send_response(HTTPStatus.OK)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no access log."""
