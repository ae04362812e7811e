"""HTTP client: one request with a total deadline. Tests replace it by another `Transport`.

Called by `transport`, and by the stack's clients of Vast.ai, vLLM and Caddy. Standard library only: `http.client`
over sockets with a deadline. Redirects are returned, not followed, so that a key is sent to no other server. Does not
read `.netrc`; uses the proxies of the environment only with `proxies=True`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import math
import re
import socket
import ssl
import tempfile
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypedDict, Unpack
from urllib.parse import unquote, urlsplit

USER_AGENT = "vast-reranker"
MAX_BYTES = 32 << 20
CHUNK_BYTES = 1 << 16
URL = re.compile(r"(https?)://(\[[^\]/]+\]|[^/:?#\[]+)(?::(\d+))?([/?].*)?", re.DOTALL)
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

# refused: nothing listens on the port. unreachable: no route, unknown name, or no reply to the connection attempt.
# timeout: connected, and the deadline passed. untrusted: the CA did not sign the server's certificate. uncertified: the
# server refuses the client certificate. broke: the connection ended before the end of the response.
# malformed: the response is not TLS, not HTTP, or too large. unsendable: the request is invalid.
Kind = Literal["refused", "unreachable", "timeout", "untrusted", "uncertified", "broke", "malformed", "unsendable"]


@dataclass(frozen=True)
class Answer:
    """A response: status, decoded body, headers by lower-case name."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the parsed body, None if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def message(self) -> str:
        """Return the error text: {"error": {"message"}}, {"error"}, {"detail"}, {"message"}, or the whole body."""
        raw = self.json()
        if raw is None:
            return self.text.strip() or "no text"
        if not isinstance(raw, dict):
            return str(raw)
        error = raw.get("error")
        if isinstance(error, dict) and error.get("message"):
            return str(error["message"])
        return str(error or raw.get("detail") or raw.get("message") or raw)


class Unanswered(Exception):
    """No usable response. `sent` is False only if the request certainly did not reach the server.

    The text contains no URL, header or key.
    """

    def __init__(self, reason: str, kind: Kind = "broke", *, sent: bool) -> None:
        self.kind = kind
        self.sent = sent
        super().__init__(reason)

    @property
    def broke(self) -> bool:
        """Whether the connection ended before the end of the response."""
        return self.kind == "broke"


class Options(TypedDict, total=False):
    """Options of a request: JSON `body`, `timeout_s` for the whole call, `max_bytes` of the response."""

    body: bytes | None
    headers: Mapping[str, str]
    timeout_s: float
    max_bytes: int


class Transport(Protocol):
    """Sends one request and returns the response. Raises Unanswered."""

    def __call__(self, method: str, url: str, **options: Unpack[Options]) -> Answer: ...


def bearer(key: str | None) -> dict[str, str]:
    """Return the Authorization header for a key, {} without a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


class HttpTransport:
    """The production transport. Thread-safe.

    `ca`: the only trusted CA, PEM text; "" trusts public CAs. `client_certificate`: PEM text of a certificate and its
    private key, presented on request. `server_name`: the name expected in the certificate instead of the URL's host.
    `unix_socket`: path of a socket to connect to instead of the URL's address. `connect_s`: limit for TCP, proxy and
    TLS together. `keep`: number of idle connections that stay open. `proxies`: use the proxies of the environment.
    The resolver of the system looks names up; the deadline does not limit it.
    """

    def __init__(
        self,
        *,
        ca: str = "",
        client_certificate: str = "",
        server_name: str = "",
        unix_socket: str = "",
        connect_s: float = 10.0,
        keep: int = 0,
        proxies: bool = False,
    ) -> None:
        self.ca, self.client_certificate = ca, client_certificate
        self.server_name, self.unix_socket = server_name, unix_socket
        self.connect_s, self.keep, self.proxies = connect_s, keep, proxies
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def __call__(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout_s: float = 30.0,
        max_bytes: int = MAX_BYTES,
    ) -> Answer:
        connection, sent, reusable = None, False, False
        deadline = time.monotonic() + timeout_s
        try:
            connection, target = self._connection(url)
            connection.prepare(method, target, body, headers)
            connection.open(deadline, self)
            sent = True
            cut_off = False
            try:
                connection.endheaders(body)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                cut_off = True  # a server may refuse a request and close before it has read the whole body
            response = connection.getresponse()
            content = _content(response, max_bytes)
            reusable = not response.will_close and not cut_off
            return Answer(response.status, content, {name.lower(): value for name, value in response.getheaders()})
        except (OSError, ValueError, OverflowError, http.client.HTTPException, zlib.error) as error:
            raise _unanswered(error, sent, timeout_s if sent else min(timeout_s, self.connect_s)) from None
        finally:
            if connection is not None:
                self._release(connection, reusable)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self, url: str) -> tuple[_Connection, str]:
        """Return an idle or a new connection, and the request target: the URL's path and query, unchanged."""
        parts = URL.fullmatch(url)
        if parts is None or int(parts[3] or 0) > 65535:
            raise ValueError("no URL")
        scheme, host, target = parts[1], parts[2].strip("[]"), parts[4] or "/"
        target = target if target.startswith("/") else f"/{target}"
        port = int(parts[3] or (443 if scheme == "https" else 80))
        proxy = _proxy(scheme, host) if self.proxies and not self.unix_socket else ""
        if proxy and scheme == "http":
            target = url
        origin = (scheme, host, port, proxy)
        while True:
            with self._lock:
                idle = next((connection for connection in self._idle if connection.origin == origin), None)
                if idle is None:
                    return _Connection(origin), target
                self._idle.remove(idle)
            if idle.is_open():
                return idle, target
            idle.close()

    def _release(self, connection: _Connection, reusable: bool) -> None:
        with self._lock:
            if reusable and len(self._idle) < self.keep:
                self._idle.append(connection)
                return
        connection.close()


class _Deadline:
    """A socket whose reads and writes end by `deadline`, in time.monotonic."""

    deadline = math.inf

    def _set_timeout(self) -> None:
        remaining_s = self.deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        self.settimeout(None if remaining_s == math.inf else remaining_s)  # type: ignore[attr-defined]

    def recv_into(self, *args: Any) -> int:
        self._set_timeout()
        return super().recv_into(*args)  # type: ignore[misc,no-any-return]

    def send(self, *args: Any) -> int:
        self._set_timeout()
        return super().send(*args)  # type: ignore[misc,no-any-return]

    def sendall(self, *args: Any) -> None:
        self._set_timeout()
        super().sendall(*args)  # type: ignore[misc]


class _Plain(_Deadline, socket.socket):
    pass


class _Tls(_Deadline, ssl.SSLSocket):
    pass


class _Connection(http.client.HTTPConnection):
    """A connection to an origin: (scheme, host, port, proxy URL or "")."""

    def __init__(self, origin: tuple[str, str, int, str]) -> None:
        self.origin = origin
        scheme, host, port, proxy = origin
        super().__init__(host, port)
        self.default_port = 443 if scheme == "https" else 80
        self.proxy_headers: dict[str, str] = {}
        if proxy:
            parts = urlsplit(proxy)
            self.host, self.port = parts.hostname or "", parts.port or 80
            if parts.username:
                user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                self.proxy_headers = {"Proxy-Authorization": f"Basic {base64.b64encode(user).decode()}"}
            if scheme == "https":
                self.set_tunnel(host, port, self.proxy_headers)
                self.proxy_headers = {}

    def prepare(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Write the head of the request into the buffer. Raises ValueError for an invalid target or header."""
        self.putrequest(method, target, skip_accept_encoding=True)
        defaults = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"}
        if body is not None:
            defaults |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**defaults, **self.proxy_headers, **headers}.items():
            self.putheader(name, value)

    def open(self, deadline: float, transport: HttpTransport) -> None:
        """Connect if necessary, and set the deadline of the socket."""
        if self.sock is None:
            scheme, host, *_ = self.origin
            started = time.monotonic()
            connect_deadline = min(deadline, started + transport.connect_s)
            try:
                self.sock = sock = _dial(transport.unix_socket or (self.host, self.port), connect_deadline)
            except TimeoutError:
                waited_s = connect_deadline - started
                raise Unanswered(f"no connection within {waited_s:.3g} s", "unreachable", sent=False) from None
            if getattr(self, "_tunnel_host", None):
                self._tunnel()  # type: ignore[attr-defined]
            if scheme == "https":
                sock.settimeout(max(connect_deadline - time.monotonic(), 0.001))  # for the whole handshake
                name = transport.server_name or host
                context = tls_context(transport.ca, transport.client_certificate)
                self.sock = context.wrap_socket(sock, server_hostname=name)
        self.sock.deadline = deadline  # type: ignore[union-attr]

    def is_open(self) -> bool:
        """Whether an idle connection is still open and has no data to read."""
        try:
            self.sock.settimeout(0)
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _dial(address: str | tuple[str, int], deadline: float) -> _Plain:
    """Return a socket connected to the path of a unix socket, or to the first address of a host that accepts."""
    if isinstance(address, str):
        candidates: list[tuple[Any, ...]] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address)]
    else:
        candidates = list(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
    failure: OSError = OSError("no address")
    for index, (family, kind, protocol, _, socket_address) in enumerate(candidates):
        sock = _Plain(family, kind, protocol)
        try:
            sock.settimeout(max((deadline - time.monotonic()) / (len(candidates) - index), 0.001))
            sock.connect(socket_address)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.deadline = deadline
            return sock
        except OSError as error:
            failure = error
            sock.close()
    raise failure


def _proxy(scheme: str, host: str) -> str:
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415

    proxy = "" if proxy_bypass(host) else getproxies().get(scheme, "")
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


@functools.cache
def tls_context(ca: str = "", client_certificate: str = "") -> ssl.SSLContext:
    """Return a context that trusts only this CA (PEM text), or the public CAs of the system and certifi.

    `client_certificate`: see HttpTransport. Raises ssl.SSLError, ValueError.
    """
    # a bundle may contain comments that are not ASCII
    context = ssl.create_default_context(cadata=ca.encode("ascii", "ignore").decode() or None)
    if not ca:
        with contextlib.suppress(ImportError):
            import certifi  # noqa: PLC0415

            context.load_verify_locations(certifi.where())
    load_client_certificate(context, client_certificate)
    context.sslsocket_class = _Tls
    return context


def load_client_certificate(context: ssl.SSLContext, client_certificate: str) -> None:
    """Load a certificate with its private key (PEM text) into a context, unless it is "". Raises ssl.SSLError."""
    if client_certificate:
        # OpenSSL reads only files; the folder is private to this user
        with tempfile.TemporaryDirectory(prefix="reranker-") as folder:
            file = Path(folder) / "client.pem"
            file.write_text(client_certificate, encoding="utf-8")
            context.load_cert_chain(file, password=lambda: "")  # an encrypted key is an error, not a prompt


def _content(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the decompressed body. Raises Unanswered if it is larger than `max_bytes`."""
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise http.client.HTTPException
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None
    content, empty = bytearray(), True
    while chunk := response.read(CHUNK_BYTES):
        empty = False
        content += unzip.decompress(chunk, max_bytes + 1 - len(content)) if unzip else chunk
        if len(content) > max_bytes:
            raise Unanswered(f"the answer is larger than {max_bytes} bytes", "malformed", sent=True)
    if response.length:
        raise http.client.IncompleteRead(b"")
    if unzip and not unzip.eof and not empty:
        raise zlib.error
    return bytes(content)


def _unanswered(error: Exception, sent: bool, waited_s: float) -> Unanswered:
    """Return the Unanswered for an error. The error's own text is omitted if it may contain the request."""
    name = type(error).__name__
    reason, kind = f"the answer is not complete HTTP ({name})", "malformed"
    match error:
        case TimeoutError():
            reason, kind = f"no answer within {waited_s:.3g} s", "timeout"
        case ssl.SSLCertVerificationError():
            reason, kind = f"its certificate is not trusted ({error.verify_message})", "untrusted"
        case ConnectionRefusedError() | FileNotFoundError():
            reason, kind = "the connection is refused", "refused"
        case ConnectionError() | ssl.SSLEOFError() | ssl.SSLZeroReturnError() | http.client.IncompleteRead():
            reason, kind = "the connection is cut off", "broke"
        case ssl.SSLError(reason=str(alert)) if re.search("ALERT.*(CERT|UNKNOWN_CA|DECRYPT_ERROR)", alert):
            reason, kind = f"the server requires a client certificate from its CA ({alert})", "uncertified"
        case ssl.SSLError():
            reason = f"TLS fails ({error.reason or name})"
        case OSError():
            reason, kind = "the address cannot be reached", "unreachable"
        case _ if not sent:
            reason, kind = f"the request cannot be sent ({name})", "unsendable"
    return Unanswered(reason, kind, sent=sent)  # type: ignore[arg-type]
