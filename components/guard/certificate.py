"""The server's certificate: shown to clients, and exchanged for a later one of the same key while it runs; and theirs.

Used by `gate` and `server`. A later one is stored beside the first, so that a restart of the container takes it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from tempfile import NamedTemporaryFile

from .rules import Refusal

MAX_PEM_BYTES = 64 << 10
LATER = "later.pem"


class Handshake(ssl.SSLObject):
    """A server's side, whose client is told why its certificate is refused: asyncio drops the alert of a handshake that
    fails (3.11), and sends it where the handshake waits for more, which then ends with its deadline."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError:
            raise ssl.SSLWantReadError from None


class CertificateStore:
    """What `context` shows, from the files that the boot script wrote, and whom it asks for a certificate."""

    def __init__(self, chain: Path, key: Path) -> None:
        self.first, self.key = chain, key
        self.later = chain.with_name(LATER)
        self.ends_at = _end(chain, key)
        self.context = self._context(chain, "")
        if self.later.exists():
            try:
                self._take(self.later)
            except (ssl.SSLError, ValueError):
                self.later.unlink()

    def ask_clients(self, client_ca: str) -> None:
        """Ask who connects from now on for a certificate by these CAs (PEM; "" asks nobody): one by another CA, or for
        another use, fails the handshake, and none is let through. Raises Refusal, and then nothing has changed."""
        try:
            self.context = self._context(self.later if self.later.exists() else self.first, client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise Refusal(400, f"client_ca holds no certificates in PEM: {error}"[:300]) from None

    def _context(self, chain: Path, client_ca: str) -> ssl.SSLContext:
        """Return a new context, which resumes no session of the one before: each has random keys for its tickets."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(chain, self.key)
        if client_ca:
            made.sslobject_class = Handshake
            made.verify_mode = ssl.CERT_OPTIONAL
            made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            made.load_verify_locations(cadata=client_ca.encode("ascii", "ignore").decode())
        return made

    def renew(self, pem: bytes) -> None:
        """Show a later certificate to new connections, and keep it. Raises Refusal, and then nothing has changed."""
        with NamedTemporaryFile(dir=self.later.parent, delete=False) as file:
            file.write(pem)
        made = Path(file.name)
        try:
            self._take(made)
        except (ssl.SSLError, ValueError) as error:
            made.unlink()
            text = f"the certificate has to be of this server's key, valid, and later than the present one: {error}"
            raise Refusal(400, text[:300]) from None
        made.replace(self.later)

    def _take(self, chain: Path) -> None:
        ends_at = _end(chain, self.key)
        if ends_at <= self.ends_at:
            raise ValueError("it ends no later")
        self.context.load_cert_chain(chain, self.key)
        self.ends_at = ends_at


def _end(chain: Path, key: Path) -> float:
    """Return when a certificate ends, by a handshake in memory, which also proves that it is of this key and valid now.

    Raises ssl.SSLError or ValueError for what it is not.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(chain)
    ask, tell = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(tell, ask, server_hostname="any"), server.wrap_bio(ask, tell, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = ends[0].getpeercert()
    if not shown:
        raise ValueError("it is no certificate of this key")
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
