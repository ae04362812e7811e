"""One HTTP exchange, as a function that tests replace: `Transport`. All clients of servers that a stack uses have it.

Called by `transport`, and by the stack's clients of Vast.ai, vLLM and Caddy. Standard library only: `http.client`
over sockets that know the deadline of the call. A redirect is an answer like any other, so a key stays where it
belongs. No `.netrc`; proxies only where they are asked for.
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

# refused: nothing listens there. unreachable: no way to the address, no such name, or no word from it. timeout: it took
# the connection, and the deadline passed. untrusted: a certificate that the CA does not vouch for. uncertified: it
# refuses the client's certificate. broke: the connection ended before the answer did.
# malformed: what came is no TLS, no HTTP, or too large. unsendable: the request itself is none.
Kind = Literal["refused", "unreachable", "timeout", "untrusted", "uncertified", "broke", "malformed", "unsendable"]


@dataclass(frozen=True)
class Answer:
    """What came back: status, decoded body, headers by lower-case name."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the parsed body, or None when it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def message(self) -> str:
        """Return what an error body says: {"error": {"message"}}, {"error"}, {"detail"}, {"message"}, or its text."""
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
    """No usable answer came. `sent` is False only where the request surely never reached the server.

    The text is of fixed words: neither URL, header nor key is in it.
    """

    def __init__(self, reason: str, kind: Kind = "broke", *, sent: bool) -> None:
        self.kind = kind
        self.sent = sent
        super().__init__(reason)

    @property
    def broke(self) -> bool:
        """Whether the connection was there and ended without a whole answer."""
        return self.kind == "broke"


class Options(TypedDict, total=False):
    """Of an exchange: a `body` is JSON. All is over after `timeout_s`; a larger answer than `max_bytes` is none."""

    body: bytes | None
    headers: Mapping[str, str]
    timeout_s: float
    max_bytes: int


class Transport(Protocol):
    """Sends one request and returns the answer; raises Unanswered."""

    def __call__(self, method: str, url: str, **options: Unpack[Options]) -> Answer: ...


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that presents a key; none without one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


class HttpTransport:
    """The real transport. May be used by many threads at once.

    `ca`: PEM text that https is verified against, and nothing else; without it public CAs are. `client_certificate`:
    PEM text of one and its private key, shown to servers that ask for it. `server_name`: the name that the certificate
    has to bear instead of the URL's host. `unix_socket`: the path of one, whatever the URL's address. `connect_s`: TCP,
    proxy and TLS may take no longer, nor than the call's deadline. `keep`: so many connections stay open for the next
    calls. `proxies`: use those of the environment. The look-up of a name is the system's, and not bounded.
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
        """See Transport."""
        connection, sent, done = None, False, False
        until = time.monotonic() + timeout_s
        try:
            connection, target = self._connection(url)
            connection.prepare(method, target, body, headers)
            connection.reach(until, self)
            sent = True
            cut_off = False
            try:
                connection.endheaders(body)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                cut_off = True  # a server may refuse a request before it has read it all, and close
            response = connection.getresponse()
            content = _content(response, max_bytes)
            done = not response.will_close and not cut_off
            return Answer(response.status, content, {name.lower(): value for name, value in response.getheaders()})
        except (OSError, ValueError, OverflowError, http.client.HTTPException, zlib.error) as error:
            raise _unanswered(error, sent, timeout_s if sent else min(timeout_s, self.connect_s)) from None
        finally:
            if connection is not None:
                self._give_back(connection, done)

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self, url: str) -> tuple[_Connection, str]:
        """Return a connection, kept or not yet open, and the request's target: the path letter for letter."""
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
                kept = next((one for one in self._idle if one.origin == origin), None)
                if kept is not None:
                    self._idle.remove(kept)
            if kept is None:
                return _Connection(origin), target
            if kept.is_open():
                return kept, target
            kept.close()

    def _give_back(self, connection: _Connection, done: bool) -> None:
        with self._lock:
            if done and len(self._idle) < self.keep:
                self._idle.append(connection)
                return
        connection.close()


class _Deadline:
    """A socket's reads and writes: each may take what is left until `until`, a moment of time.monotonic."""

    until = math.inf

    def _arm(self) -> None:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(None if left_s == math.inf else left_s)  # type: ignore[attr-defined]

    def recv_into(self, *args: Any) -> int:
        self._arm()
        return super().recv_into(*args)  # type: ignore[misc,no-any-return]

    def send(self, *args: Any) -> int:
        self._arm()
        return super().send(*args)  # type: ignore[misc,no-any-return]

    def sendall(self, *args: Any) -> None:
        self._arm()
        super().sendall(*args)  # type: ignore[misc]


class _Plain(_Deadline, socket.socket):
    pass


class _Tls(_Deadline, ssl.SSLSocket):
    pass


class _Connection(http.client.HTTPConnection):
    """A connection to an origin: (scheme, host, port, URL of the proxy or "")."""

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
                given = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                self.proxy_headers = {"Proxy-Authorization": f"Basic {base64.b64encode(given).decode()}"}
            if scheme == "https":
                self.set_tunnel(host, port, self.proxy_headers)
                self.proxy_headers = {}

    def prepare(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Write the request's head into this object's buffer. Raises ValueError for what no request can carry."""
        self.putrequest(method, target, skip_accept_encoding=True)
        own = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"}
        if body is not None:
            own |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**own, **self.proxy_headers, **headers}.items():
            self.putheader(name, value)

    def reach(self, until: float, transport: HttpTransport) -> None:
        """Be connected, and let the deadline hold for what follows."""
        if self.sock is None:
            scheme, host, *_ = self.origin
            started = time.monotonic()
            soon = min(until, started + transport.connect_s)
            try:
                self.sock = sock = _dial(transport.unix_socket or (self.host, self.port), soon)
            except TimeoutError:
                waited_s = soon - started
                raise Unanswered(f"no connection within {waited_s:.3g} s", "unreachable", sent=False) from None
            if getattr(self, "_tunnel_host", None):
                self._tunnel()  # type: ignore[attr-defined]
            if scheme == "https":
                sock.settimeout(max(soon - time.monotonic(), 0.001))  # the handshake's, in all
                name = transport.server_name or host
                context = tls_context(transport.ca, transport.client_certificate)
                self.sock = context.wrap_socket(sock, server_hostname=name)
        self.sock.until = until  # type: ignore[union-attr]

    def is_open(self) -> bool:
        """Whether the server has left a kept connection open, and owes nothing on it."""
        try:
            self.sock.settimeout(0)
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _dial(address: str | tuple[str, int], until: float) -> _Plain:
    """Return a connected socket: to a unix socket's path, or to the first address of a host that answers."""
    if isinstance(address, str):
        found: list[tuple[Any, ...]] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address)]
    else:
        found = list(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
    failure: OSError = OSError("no address")
    for place, (family, kind, protocol, _, where) in enumerate(found):
        sock = _Plain(family, kind, protocol)
        try:
            sock.settimeout(max((until - time.monotonic()) / (len(found) - place), 0.001))
            sock.connect(where)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.until = until
            return sock
        except OSError as error:
            failure = error
            sock.close()
    raise failure


def _proxy(scheme: str, host: str) -> str:
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415

    found = "" if proxy_bypass(host) else getproxies().get(scheme, "")
    return found if "://" in found or not found else f"http://{found}"


@functools.cache
def tls_context(ca: str = "", client_certificate: str = "") -> ssl.SSLContext:
    """Return what trusts this CA (PEM text) alone, or public CAs: the system's and certifi's; and shows a certificate
    of its own, PEM with its private key, where it is asked for one. Raises ssl.SSLError, ValueError.
    """
    # bundles have comments between the blocks, in any language; only ASCII is taken
    context = ssl.create_default_context(cadata=ca.encode("ascii", "ignore").decode() or None)
    if not ca:
        with contextlib.suppress(ImportError):
            import certifi  # noqa: PLC0415

            context.load_verify_locations(certifi.where())
    show(context, client_certificate)
    context.sslsocket_class = _Tls
    return context


def show(context: ssl.SSLContext, client_certificate: str) -> None:
    """Have a context show a certificate, PEM with its private key, if one is given. Raises ssl.SSLError."""
    if client_certificate:
        with tempfile.TemporaryDirectory(prefix="reranker-") as folder:  # of this user alone; OpenSSL takes files only
            file = Path(folder) / "client.pem"
            file.write_text(client_certificate, encoding="utf-8")
            context.load_cert_chain(file, password=lambda: "")  # a key behind a password is refused, not asked for


def _content(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Return the body, unzipped. Never holds much more than `max_bytes`."""
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
    """Return what an error means. Its text is not used where it may hold what was sent."""
    name = type(error).__name__
    reason, kind = f"the answer is no whole HTTP ({name})", "malformed"
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
            reason, kind = f"it takes no client without a certificate by its CA ({alert})", "uncertified"
        case ssl.SSLError():
            reason = f"TLS fails ({error.reason or name})"
        case OSError():
            reason, kind = "the address cannot be reached", "unreachable"
        case _ if not sent:
            reason, kind = f"the request cannot be sent ({name})", "unsendable"
    return Unanswered(reason, kind, sent=sent)  # type: ignore[arg-type]
