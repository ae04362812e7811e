"""Endpoint: address, API key, CA and client certificate of a reranker. Made by `stack`, `client` and `arguments`."""

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
from reranker.http import load_client_certificate
from reranker.secret import read_secret

URL_ENV, KEY_ENV, CA_ENV = "RERANKER_URL", "RERANKER_API_KEY", "RERANKER_CA"
CLIENT_CERTIFICATE_ENV, CLIENT_KEY_ENV = "RERANKER_CLIENT_CERT", "RERANKER_CLIENT_KEY"
PEM_MARK = "-----BEGIN CERTIFICATE-----"
KEY_MARK = "PRIVATE KEY-----"


@dataclass(frozen=True)
class Endpoint:
    """The location of a reranker. Raises InvalidInput for an invalid address, key or certificate.

    `ca_certificate`: PEM text; "" trusts public CAs. `model`: None sends no model name. `client_certificate`: PEM text
    of a certificate and its private key, if the server requires one.
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
        """Return a context that trusts only this CA and presents the client certificate; None if there is neither."""
        if not self.ca_certificate and not self.client_certificate:
            return None
        # a bundle may contain comments that are not ASCII
        blocks, subject = self.ca_certificate.encode("ascii", "ignore").decode(), "CA certificate is"
        try:
            context = ssl.create_default_context(cadata=blocks or None)
            subject = "client certificate and private key are"
            load_client_certificate(context, self.client_certificate)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(f"the {subject} not valid PEM: {error}") from None
        return context

    @contextlib.contextmanager
    def ca_file(self) -> Iterator[str | None]:
        """Yield the path of a temporary file with the CA, None without a CA. Only this user can read the file."""
        if not self.ca_certificate:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="reranker-") as folder:
            path = Path(folder) / "ca.pem"
            path.write_text(self.ca_certificate, encoding="utf-8")
            yield str(path)


def client_pem(certificate: str | os.PathLike[str] = "", key: str | os.PathLike[str] = "") -> str:
    """Return a client certificate and its private key as one PEM text. Each argument is PEM text or a path.

    Without `key`, the private key is in `certificate`. Raises InvalidInput.
    """
    if key and not certificate:
        raise InvalidInput("a client key requires a client certificate")
    parts = (pem(certificate, name="client certificate"), pem(key, KEY_MARK, "client key"))
    return "\n".join(part.strip() for part in parts if part)


def pem(source: str | os.PathLike[str], mark: str = PEM_MARK, name: str = "CA certificate") -> str:
    """Return PEM text; `source` is PEM text or a path. Raises InvalidInput."""
    if isinstance(source, str) and (not source or mark in source):
        return source
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot read the {name} {os.fspath(source)!r}: {reason}") from None
    if mark not in text:
        raise InvalidInput(f"{os.fspath(source)!r} contains no {name.rpartition(' ')[2]} in PEM")
    return text


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput("the address is not a URL; example: https://203.0.113.7:41025") from None
    if parts.username or parts.password:
        raise InvalidInput("the address contains a user or password: pass the API key separately")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInput(f"{url!r} is not the address of a server; example: https://203.0.113.7:41025")
    return url.rstrip("/")
