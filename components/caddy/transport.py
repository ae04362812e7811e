"""One HTTP exchange with Caddy's admin API, over TCP, TLS or a unix socket. The seam that tests replace.

Called by `admin` only. Standard library: `requests` speaks no unix sockets, and every exchange here is a small one.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back: status, body, headers by lower-case name."""

    status: int
    text: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Unanswered(Exception):
    """No usable answer came. `refused`: nothing listens there, so no Caddy runs there either. `broke`: the connection
    was there and ended without an answer."""

    def __init__(self, reason: str, *, refused: bool = False, broke: bool = False) -> None:
        self.refused = refused
        self.broke = broke
        super().__init__(reason)


class Transport(Protocol):
    """Sends one request and returns the answer; raises Unanswered."""

    def __call__(self, method: str, path: str, *, body: str | None, headers: Mapping[str, str]) -> Answer:
        """Send `body`, if there is one, as JSON."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, socket_path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.socket_path = socket_path
        self.timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout_s)
        self.sock.connect(self.socket_path)


class HttpTransport:
    """The real one. A connection a call: Caddy replaces its admin listener on changes.

    `url`: http(s)://host:port, with a path where the API is behind one, or unix:///path. `ca`: PEM text that https is
    verified against; the system's store where it is empty.
    """

    def __init__(self, url: str, *, ca: str = "", timeout_s: float = 30.0) -> None:
        self.parts = urlsplit(url)
        self.prefix = "" if self.parts.scheme == "unix" else self.parts.path.rstrip("/")
        self.timeout_s = timeout_s
        self.ca = ca

    def _connection(self) -> http.client.HTTPConnection:
        if self.parts.scheme == "unix":
            return UnixConnection(self.parts.path, self.timeout_s)
        host, port = self.parts.hostname or "", self.parts.port
        if self.parts.scheme == "https":
            context = ssl.create_default_context(cadata=self.ca or None)
            return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout_s)

    def __call__(self, method: str, path: str, *, body: str | None, headers: Mapping[str, str]) -> Answer:
        """See Transport."""
        connection = self._connection()
        sent = dict(headers) | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            connection.request(method, self.prefix + path, body=None if body is None else body.encode(), headers=sent)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (ConnectionRefusedError, FileNotFoundError):
            raise Unanswered("nothing listens there", refused=True) from None
        except ssl.SSLError as error:
            raise Unanswered(f"TLS fails: {error.reason or type(error).__name__}") from None
        except TimeoutError:
            raise Unanswered(f"no answer within {self.timeout_s:g} s") from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # a ValueError's text may be a header
            raise Unanswered(f"the connection broke ({type(error).__name__})", broke=True) from None
        finally:
            connection.close()
        return Answer(answer.status, text, {name.lower(): value for name, value in answer.getheaders()})
