"""Endpoint: where a reranker is, what opens it and who vouches for it. Built from a stack or by hand; used by all.

A key is never an argument of a command, since everyone on a machine can read those: it comes from the environment.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from reranker.errors import InvalidInput
from reranker.http import show
from reranker.secret import read_secret

URL_ENV, KEY_ENV, CA_ENV = "RERANKER_URL", "RERANKER_API_KEY", "RERANKER_CA"
CLIENT_CERTIFICATE_ENV, CLIENT_KEY_ENV = "RERANKER_CLIENT_CERT", "RERANKER_CLIENT_KEY"
PEM_MARK = "-----BEGIN CERTIFICATE-----"
KEY_MARK = "PRIVATE KEY-----"


@dataclass(frozen=True)
class Endpoint:
    """A reranker. `ca_certificate` is PEM text; empty trusts public CAs. `model` None asks for whatever is served.
    `client_certificate`: PEM text of one and its private key, where the reranker takes no client without.

    Raises InvalidInput for what can be no address, key or certificate.
    """

    url: str
    api_key: str = field(repr=False)
    ca_certificate: str = field(default="", repr=False)
    model: str | None = None
    client_certificate: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url))
        object.__setattr__(self, "api_key", read_secret(self.api_key or "", "the API key"))
        if not self.api_key:
            raise InvalidInput("the API key is empty")
        self.ssl_context()

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return a context that trusts this endpoint's CA and no other, and shows the client's certificate; None where
        there is neither (public CAs)."""
        if not self.ca_certificate and not self.client_certificate:
            return None
        # bundles have comments between the blocks, in any language; only ASCII is taken
        blocks, what = self.ca_certificate.encode("ascii", "ignore").decode(), "CA certificate is"
        try:
            context = ssl.create_default_context(cadata=blocks or None)
            what = "client's certificate and private key are"
            show(context, self.client_certificate)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(f"the {what} not PEM that can be read: {error}") from None
        return context

    @contextlib.contextmanager
    def ca_file(self) -> Iterator[str | None]:
        """Give the CA as the path of a file that only this user can read, for clients that want one; then remove it."""
        if not self.ca_certificate:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="reranker-") as folder:
            path = Path(folder) / "ca.pem"
            path.write_text(self.ca_certificate, encoding="utf-8")
            yield str(path)


def client_pem(certificate: str | os.PathLike[str] = "", key: str | os.PathLike[str] = "") -> str:
    """Return a client's certificate and private key, each PEM text or a path, as one text; the key may be in the
    certificate's. Raises InvalidInput."""
    if key and not certificate:
        raise InvalidInput("a client's private key is given without its certificate")
    parts = (pem(certificate, what="client's certificate"), pem(key, KEY_MARK, "client's private key"))
    return "\n".join(one.strip() for one in parts if one)


def pem(given: str | os.PathLike[str], mark: str = PEM_MARK, what: str = "CA certificate") -> str:
    """Return what is given as PEM text or as a path. Raises InvalidInput for a file that cannot be read."""
    if isinstance(given, str) and (not given or mark in given):
        return given
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot read the {what} {os.fspath(given)!r}: {reason}") from None
    if mark not in text:
        raise InvalidInput(f"{os.fspath(given)!r} holds no {what.rpartition(' ')[2]} in PEM")
    return text


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput("the address is not a URL: it looks like https://203.0.113.7:41025") from None
    if parts.username or parts.password:
        raise InvalidInput("the address holds a user or password: give the key by itself")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInput(f"{url!r} is not the address of a server: it looks like https://203.0.113.7:41025")
    return url.rstrip("/")
