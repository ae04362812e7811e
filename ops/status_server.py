"""`ops status --serve`: one page, to browsers of this machine alone. On the standard library's HTTP server."""

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

FRESH_S = 10.0  # a page is not made anew for so long
DEADLINE_S = 120.0  # of a connection: what makes the page asks every server and Vast.ai
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class StatusServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1, at a free port for 0, until Ctrl-C. `make` returns the page; one is made at a time."""

    def __init__(self, port: int, make: Callable[[], str], deadline_s: float = DEADLINE_S) -> None:
        self._make, self.deadline_s = make, deadline_s
        self._lock, self._page, self._made_at = threading.Lock(), "", -FRESH_S
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def page(self) -> str:
        """Return the page, a fresh one or that of a moment ago. Raises OpsError, VastRerankerError."""
        with self._lock:
            if time.monotonic() - self._made_at >= FRESH_S:
                self._page, self._made_at = self._make(), time.monotonic()
            return self._page

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until Ctrl-C."""
        try:
            super().serve_forever(poll_interval)
        except KeyboardInterrupt:
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET / and nothing else, and no request that reached it by another name than this machine's own."""

    server: StatusServer

    def setup(self) -> None:
        """Cut the connection at its deadline, however slowly it goes."""
        super().setup()
        self._deadline = threading.Timer(self.server.deadline_s, self._cut)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # it has gone already
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """Answer with the page, or say why there is none."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not is_loopback(f"http://{hosts[0]}"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, explain="this page is for this machine's own addresses")
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
