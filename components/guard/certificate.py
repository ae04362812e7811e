"""TLS: the server's certificate and its renewal while the guard runs, and verification of client certificates.

Used by `gate` and `server`. The renewed certificate is stored next to the original: it survives a container restart.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from .rules import Refusal

MAX_PEM_BYTES = 64 << 10
RENEWED_FILE = "later.pem"


class Handshake(ssl.SSLObject):
    """The server side of a handshake. It sends the alert for a rejected client certificate: asyncio (3.11) discards the
    alert of a failed handshake, and sends it if the handshake waits for data. The deadline then ends it."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError:
            raise ssl.SSLWantReadError from None


class CertificateStore:
    """The server's TLS `context`, built from the files of the boot script, with the CAs for client certificates."""

    def __init__(self, chain: Path, key: Path) -> None:
        self.original, self.key = chain, key
        self.renewed = chain.with_name(RENEWED_FILE)
        self.ends_at = _read_end(chain, key)
        self.context = self._make_context(chain, "")
        if self.renewed.exists():
            try:
                self._load(self.renewed)
            except (ssl.SSLError, ValueError):
                self.renewed.unlink()

    def set_client_ca(self, client_ca: str) -> None:
        """Request a certificate by these CAs (PEM; "": none) on new connections. The handshake fails for a certificate
        by another CA or for another use, and succeeds without one. Raises Refusal and then changes nothing."""
        try:
            self.context = self._make_context(self.renewed if self.renewed.exists() else self.original, client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise Refusal(400, f"client_ca contains no PEM certificates: {error}"[:300]) from None

    def _make_context(self, chain: Path, client_ca: str) -> ssl.SSLContext:
        """Return a new context. It resumes no session of an earlier context: each has random ticket keys."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, self.key)
        if client_ca:
            context.sslobject_class = Handshake
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=client_ca.encode("ascii", "ignore").decode())
        return context

    def renew(self, pem: bytes) -> None:
        """Use a new certificate for new connections and store it. Raises Refusal and then changes nothing."""
        with NamedTemporaryFile(dir=self.renewed.parent, delete=False) as file:
            file.write(pem)
        chain = Path(file.name)
        try:
            self._load(chain)
        except (ssl.SSLError, ValueError) as error:
            chain.unlink()
            text = f"the certificate must be of this server's key, valid, and end later than the current one: {error}"
            raise Refusal(400, text[:300]) from None
        chain.replace(self.renewed)

    def _load(self, chain: Path) -> None:
        ends_at = _read_end(chain, self.key)
        if ends_at <= self.ends_at:
            raise ValueError("it does not end later")
        self.context.load_cert_chain(chain, self.key)
        self.ends_at = ends_at


def _read_end(chain: Path, key: Path) -> float:
    """Return the end of a certificate's validity, in seconds since the epoch, from a handshake in memory.

    Raises ssl.SSLError or ValueError if the certificate does not match the key or is not valid now.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(chain)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server, server_hostname="any")
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for side in [client_side, server_side] * 4:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    certificate = client_side.getpeercert()
    if not certificate:
        raise ValueError("it does not match the key")
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
