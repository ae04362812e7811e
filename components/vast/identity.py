"""Server certificates: a leaf for the IP that an offer shows, signed by the stack's own CA.

Made by `rental` for each offer before it is rented; the private key goes to the container's environment and nowhere
else. `cryptography` is imported when something is signed, not before: previews sign nothing.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import re
import socket
import ssl
import textwrap
from dataclasses import dataclass, field
from typing import Any

from reranker.http import tls_context

# What a certificate names beside the IP: a gateway that reaches servers by address checks this one name.
SERVER_NAME = "reranker.internal"
LEAF_DAYS = 397
AUTHORITY_DAYS = 3650
# a name that is no IP: its last label begins with a letter
HOST_NAME = re.compile(r"(?:[A-Za-z0-9*]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*")
CLOCK_SKEW = datetime.timedelta(hours=1)
KEY_ENV = "TLS_KEY"
CHUNK_CHARS = 250  # Vast.ai takes 256 characters in the value of a variable
CERT_ENVS = ("TLS_CERT_0", "TLS_CERT_1", "TLS_CERT_2")


def chunks(text: str) -> list[str]:
    """Return a long text in values that Vast.ai takes, in order; the container joins the variables by name."""
    return [text[at : at + CHUNK_CHARS] for at in range(0, len(text), CHUNK_CHARS)]


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, both DER: the key as PKCS #8."""

    certificate: bytes
    key: bytes = field(repr=False)

    def env(self) -> dict[str, str]:
        """Return the environment that carries it into a container: base64, the certificate in pieces."""
        text = base64.b64encode(self.certificate).decode()
        parts = chunks(text)
        if len(parts) > len(CERT_ENVS):
            raise ValueError(f"a certificate of {len(self.certificate)} bytes is too large for {len(CERT_ENVS)} pieces")
        return {KEY_ENV: self.secret, **dict(zip(CERT_ENVS, parts, strict=False))}

    def pem(self) -> tuple[str, str]:
        """Return certificate and key as text."""
        key = f"-----BEGIN PRIVATE KEY-----\n{textwrap.fill(self.secret, 64)}\n-----END PRIVATE KEY-----\n"
        return ssl.DER_cert_to_PEM_cert(self.certificate), key

    @property
    def secret(self) -> str:
        return base64.b64encode(self.key).decode()


@dataclass(frozen=True)
class Authority:
    """A certificate authority, PEM: signs what the stack's servers show."""

    certificate: str
    private_key: str = field(repr=False)

    @classmethod
    def make(cls, name: str, *, now: datetime.datetime | None = None) -> Authority:
        """Return a new one: EC P-256, self-signed for ten years, for signing servers and nothing below them."""
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
        off = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = x509.KeyUsage(
            **dict.fromkeys(off, False), key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
        )
        # what strict verifiers (Python 3.13) ask of an authority
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(*_signed(builder, key, key, now, AUTHORITY_DAYS).pem())

    def issue(self, *names: str, now: datetime.datetime | None = None, days: int = LEAF_DAYS) -> Identity:
        """Return a new identity for a server at these IPs (or host names), which also bears SERVER_NAME.

        Raises ValueError for a name that is empty or neither.
        """
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        signer = serialization.load_pem_private_key(self.private_key.encode(), None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an EC key")
        key = ec.generate_private_key(ec.SECP256R1())
        shown = x509.SubjectAlternativeName([*(_general_name(one.strip()) for one in names), x509.DNSName(SERVER_NAME)])
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(authority.subject)
        builder = builder.add_extension(shown, critical=True)  # as the subject is empty (RFC 5280, 4.2.1.6)
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), critical=False)
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(by, critical=False)
        return _signed(builder, key, signer, now, days)


def expiry(certificate_pem: str) -> int:
    """Return when a PEM certificate ends, in seconds since the epoch."""
    from cryptography import x509  # noqa: PLC0415

    return int(x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc.timestamp())


def served_expiry(ip: str, port: int, ca_certificate: str, *, timeout_s: float = 10.0) -> int | None:
    """Return when the certificate that a server shows ends; None when it shows none that the CA signed for it."""
    context = tls_context(ca_certificate)
    try:
        with (
            socket.create_connection((ip, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=ip) as secured,
        ):
            shown = secured.getpeercert() or {}
    except OSError:
        return None
    return int(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _general_name(name: str) -> Any:
    from cryptography import x509  # noqa: PLC0415

    if HOST_NAME.fullmatch(name):
        return x509.DNSName(name)
    return x509.IPAddress(ipaddress.ip_address(name))


def _signed(builder: Any, key: Any, signer: Any, now: datetime.datetime | None, days: int) -> Identity:
    """Return a certificate of `key`, valid from `now` (less the skew of clocks) for so many days."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    now = now or datetime.datetime.now(datetime.UTC)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + datetime.timedelta(days=days))
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Identity(builder.sign(signer, SHA256()).public_bytes(Encoding.DER), private)
