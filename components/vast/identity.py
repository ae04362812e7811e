"""What one rented instance has and no other: a key, a name, and a certificate by the stack's own CA for name and IP.

Made by `rental` for each offer before it is rented. Key and name follow from the nonce in the label, the key from the
stack's secret as well; the certificate's private key goes to the container's environment and nowhere else, so that a
new certificate is signed for the public key that the server shows. `cryptography` is imported when something is signed,
not before: previews sign nothing.
"""

from __future__ import annotations

import base64
import datetime
import hmac
import ipaddress
import re
import socket
import ssl
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reranker.http import tls_context

DOMAIN = "reranker.internal"  # no server's name, but the end of each one's
LEAF_DAYS = 30  # of a server that takes a new one while it runs
FIXED_LEAF_DAYS = 397  # of one that does not, and is replaced before its end
AUTHORITY_DAYS = 3650
# a name that is no IP: its last label begins with a letter
HOST_NAME = re.compile(r"(?:[A-Za-z0-9*]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*")
END_PEM = "-----END CERTIFICATE-----"
CLOCK_SKEW = datetime.timedelta(hours=1)
KEY_ENV = "TLS_KEY"
CHUNK_CHARS = 250  # Vast.ai takes 256 characters in the value of a variable
CERT_ENVS = ("TLS_CERT_0", "TLS_CERT_1", "TLS_CERT_2")


def own_key(stack_secret: str, nonce: str) -> str:
    """Return the key of the instance whose label has this nonce, 64 hex digits: it manages that server, and no other.

    A machine that was tried and given up had another nonce than the one that serves, so its key opens nothing.
    """
    return hmac.digest(stack_secret.encode(), nonce.encode(), "sha256").hex()


def server_name(nonce: str) -> str:
    """Return the name, beside its IP, in the certificate of the instance whose label has this nonce."""
    return f"{nonce}.{DOMAIN}" if nonce else ""


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


# Addresses of networks that are not the internet: of no rented machine, but for the emulator's.
PRIVATE_NETWORKS = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


@dataclass(frozen=True)
class Authority:
    """A certificate authority, PEM: signs what the stack's servers show. After its own certificate others may follow,
    which clients trust as well."""

    certificate: str
    private_key: str = field(repr=False)

    @classmethod
    def make(
        cls, name: str, permitted: Sequence[str] | None = None, *, now: datetime.datetime | None = None
    ) -> Authority:
        """Return a new one: EC P-256, self-signed for ten years, for signing servers and nothing below them.

        With `permitted` (host names, IPs, networks) its signature is good for these, for names under DOMAIN, and for
        addresses of the internet: a verifier refuses any other, whoever has the key.
        """
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
        if permitted is not None:
            builder = builder.add_extension(_constraints(permitted), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(*Identity(_signed(builder, key.public_key(), key, now, AUTHORITY_DAYS), _private(key)).pem())

    def issue(self, *names: str, now: datetime.datetime | None = None, days: float = LEAF_DAYS) -> Identity:
        """Return a new identity for a server at these IPs and host names.

        Raises ValueError for a name that is empty or neither.
        """
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        key = ec.generate_private_key(ec.SECP256R1())
        return Identity(self._leaf(names, key.public_key(), now, days), _private(key))

    def renew(self, shown: bytes, *names: str, now: datetime.datetime | None = None, days: float = LEAF_DAYS) -> str:
        """Return a new certificate (PEM) for the key of the one that a server shows (DER)."""
        from cryptography import x509  # noqa: PLC0415

        key = x509.load_der_x509_certificate(shown).public_key()
        return ssl.DER_cert_to_PEM_cert(self._leaf(names, key, now, days))

    def _leaf(self, names: Sequence[str], key: Any, now: datetime.datetime | None, days: float) -> bytes:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        signer = serialization.load_pem_private_key(self.private_key.encode(), None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an EC key")
        shown = x509.SubjectAlternativeName([_general_name(one.strip()) for one in names])
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(authority.subject)
        builder = builder.add_extension(shown, critical=True)  # as the subject is empty (RFC 5280, 4.2.1.6)
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), critical=False)
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(by, critical=False)
        return _signed(builder, key, signer, now, days)


def signing_certificate(bundle: str) -> str:
    """Return the first certificate of a PEM text: the authority that signs, before others that clients trust too."""
    return "".join(bundle.partition(END_PEM)[:2]).strip()


def expiry(certificate_pem: str) -> int:
    """Return when a PEM certificate ends, in seconds since the epoch."""
    from cryptography import x509  # noqa: PLC0415

    return int(x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc.timestamp())


@dataclass(frozen=True)
class ServerCertificate:
    """A certificate that a server shows, DER, and when it ends, in seconds since the epoch."""

    certificate: bytes
    ends_at: int


def fetch_certificate(
    ip: str, port: int, ca_certificate: str, name: str = "", *, timeout_s: float = 10.0
) -> ServerCertificate | None:
    """Return what a server shows; None when it shows nothing that the CA signed for this name, or else for its IP."""
    context = tls_context(ca_certificate)
    try:
        with (
            socket.create_connection((ip, port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=name or ip) as secured,
        ):
            der, parsed = secured.getpeercert(binary_form=True), secured.getpeercert()
    except OSError:
        return None
    return ServerCertificate(der, int(ssl.cert_time_to_seconds(str(parsed["notAfter"])))) if der and parsed else None


def _constraints(permitted: Sequence[str]) -> Any:
    """Return the X.509 name constraints: a private network that holds something permitted is permitted whole."""
    from cryptography import x509  # noqa: PLC0415

    hosts = [one for one in permitted if HOST_NAME.fullmatch(one)]
    given = [ipaddress.ip_network(one) for one in permitted if one not in hosts]
    private = [ipaddress.ip_network(one) for one in PRIVATE_NETWORKS]
    names = [x509.DNSName(one) for one in (DOMAIN, *hosts)]
    everywhere = [x509.IPAddress(ipaddress.ip_network(one)) for one in ("0.0.0.0/0", "::/0")]
    excluded = [x509.IPAddress(one) for one in private if not any(one.overlaps(other) for other in given)]
    return x509.NameConstraints([*names, *everywhere], excluded)


def _general_name(name: str) -> Any:
    from cryptography import x509  # noqa: PLC0415

    if HOST_NAME.fullmatch(name):
        return x509.DNSName(name)
    return x509.IPAddress(ipaddress.ip_address(name))


def _signed(builder: Any, key: Any, signer: Any, now: datetime.datetime | None, days: float) -> bytes:
    """Return a certificate (DER) of a public key, valid from `now` (less the skew of clocks) for so many days."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    now = now or datetime.datetime.now(datetime.UTC)
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + datetime.timedelta(days=days))
    signed: bytes = builder.sign(signer, SHA256()).public_bytes(Encoding.DER)
    return signed


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    private: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return private
