"""Identity of one rented instance: an API key, a name, and a certificate of the stack's CA for that name and the IP.

`rental` makes an identity before each rent. The name is derived from the nonce in the label, the key from the nonce
and the stack's secret. Only the container's environment contains the certificate's private key; a renewal signs the
public key of the certificate that the server presents. `cryptography` is imported only to sign, to keep previews fast.
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

DOMAIN = "reranker.internal"  # the parent domain of all server names
LEAF_DAYS = 30  # for a server that can load a new certificate while it runs
FIXED_LEAF_DAYS = 397  # for a server that cannot; it is replaced before the certificate ends
AUTHORITY_DAYS = 3650
# the last label begins with a letter, unlike that of an IP
HOST_NAME = re.compile(r"(?:[A-Za-z0-9*]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*")
END_PEM = "-----END CERTIFICATE-----"
CLOCK_SKEW = datetime.timedelta(hours=1)
KEY_ENV = "TLS_KEY"
CHUNK_CHARS = 250  # Vast.ai accepts at most 256 characters in the value of a variable
CERT_ENVS = ("TLS_CERT_0", "TLS_CERT_1", "TLS_CERT_2")


def own_key(stack_secret: str, nonce: str) -> str:
    """Return the management key of the instance with this nonce, 64 hex digits. It is valid for that server only.
    A rejected machine had a different nonce, so its key is useless."""
    return hmac.digest(stack_secret.encode(), nonce.encode(), "sha256").hex()


def server_name(nonce: str) -> str:
    """Return the host name in the certificate of the instance with this nonce."""
    return f"{nonce}.{DOMAIN}" if nonce else ""


def chunks(text: str) -> list[str]:
    """Split a long text into values of variables that Vast.ai accepts; the container joins them in order."""
    return [text[start : start + CHUNK_CHARS] for start in range(0, len(text), CHUNK_CHARS)]


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key (PKCS #8), both DER."""

    certificate: bytes
    key: bytes = field(repr=False)

    def env(self) -> dict[str, str]:
        """Return the container's environment variables for key and certificate: base64, the certificate in chunks."""
        parts = chunks(base64.b64encode(self.certificate).decode())
        if len(parts) > len(CERT_ENVS):
            raise ValueError(f"a certificate of {len(self.certificate)} bytes is too large for {len(CERT_ENVS)} pieces")
        return {KEY_ENV: self.secret, **dict(zip(CERT_ENVS, parts, strict=False))}

    def pem(self) -> tuple[str, str]:
        """Return certificate and key in PEM."""
        key = f"-----BEGIN PRIVATE KEY-----\n{textwrap.fill(self.secret, 64)}\n-----END PRIVATE KEY-----\n"
        return ssl.DER_cert_to_PEM_cert(self.certificate), key

    @property
    def secret(self) -> str:
        return base64.b64encode(self.key).decode()


# Only the emulator's machines have addresses in these networks.
PRIVATE_NETWORKS = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


@dataclass(frozen=True)
class Authority:
    """A certificate authority, PEM: signs the certificates of the stack's servers.
    `certificate` may contain further certificates after the authority's: clients trust all of them."""

    certificate: str
    private_key: str = field(repr=False)

    @classmethod
    def make(
        cls, name: str, permitted: Sequence[str] | None = None, *, now: datetime.datetime | None = None
    ) -> Authority:
        """Make an authority: EC P-256, self-signed for ten years, that can sign servers but no other authorities.

        `permitted`: host names, IPs and networks. With it, verifiers accept only certificates for these, for names
        under DOMAIN and for public addresses, even if the authority's key is stolen.
        """
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
        unused = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = x509.KeyUsage(
            **dict.fromkeys(unused, False), key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
        )
        # strict verifiers (Python 3.13) require these extensions
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        if permitted is not None:
            builder = builder.add_extension(_constraints(permitted), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(*Identity(_sign(builder, key.public_key(), key, now, AUTHORITY_DAYS), _private_der(key)).pem())

    def issue(self, *names: str, now: datetime.datetime | None = None, days: float = LEAF_DAYS) -> Identity:
        """Make an identity for a server with these IPs and host names. Raises ValueError for an invalid name."""
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        key = ec.generate_private_key(ec.SECP256R1())
        return Identity(self._leaf(names, key.public_key(), now, days), _private_der(key))

    def renew(
        self, certificate: bytes, *names: str, now: datetime.datetime | None = None, days: float = LEAF_DAYS
    ) -> str:
        """Return a new certificate (PEM) for the key of a server's current `certificate` (DER)."""
        from cryptography import x509  # noqa: PLC0415

        key = x509.load_der_x509_certificate(certificate).public_key()
        return ssl.DER_cert_to_PEM_cert(self._leaf(names, key, now, days))

    def _leaf(self, names: Sequence[str], key: Any, now: datetime.datetime | None, days: float) -> bytes:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        signer = serialization.load_pem_private_key(self.private_key.encode(), None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an EC key")
        alternative_names = x509.SubjectAlternativeName([
            x509.DNSName(name) if HOST_NAME.fullmatch(name) else x509.IPAddress(ipaddress.ip_address(name))
            for name in map(str.strip, names)
        ])  # fmt: skip
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(authority.subject)
        builder = builder.add_extension(alternative_names, critical=True)  # the subject is empty (RFC 5280, 4.2.1.6)
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(issuer, critical=False)
        return _sign(builder, key, signer, now, days)


def signing_certificate(bundle: str) -> str:
    """Return the first certificate of a PEM text: the authority that signs. Clients trust the others as well."""
    return "".join(bundle.partition(END_PEM)[:2]).strip()


def expiry(certificate_pem: str) -> int:
    """Return the end of a PEM certificate, in seconds since the epoch."""
    from cryptography import x509  # noqa: PLC0415

    return int(x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc.timestamp())


@dataclass(frozen=True)
class PresentedCertificate:
    """The certificate of a server, DER. `ends_at`: seconds since the epoch."""

    certificate: bytes
    ends_at: int


def fetch_certificate(
    ip: str, port: int, ca_certificate: str, name: str = "", *, timeout_s: float = 10.0
) -> PresentedCertificate | None:
    """Return a server's certificate; None if it has none of the CA for `name` (default: for its IP)."""
    context = tls_context(ca_certificate)
    try:
        with (
            socket.create_connection((ip, port), timeout=timeout_s) as connection,
            context.wrap_socket(connection, server_hostname=name or ip) as tls,
        ):
            der, parsed = tls.getpeercert(binary_form=True), tls.getpeercert()
    except OSError:
        return None
    return PresentedCertificate(der, int(ssl.cert_time_to_seconds(str(parsed["notAfter"])))) if der and parsed else None


def _constraints(permitted: Sequence[str]) -> Any:
    """Return the X.509 name constraints. A private network that contains a permitted address is permitted entirely."""
    from cryptography import x509  # noqa: PLC0415

    hosts = [name for name in permitted if HOST_NAME.fullmatch(name)]
    networks = [ipaddress.ip_network(name) for name in permitted if name not in hosts]
    private = [ipaddress.ip_network(network) for network in PRIVATE_NETWORKS]
    names = [x509.DNSName(host) for host in (DOMAIN, *hosts)]
    internet = [x509.IPAddress(ipaddress.ip_network(network)) for network in ("0.0.0.0/0", "::/0")]
    excluded = [x509.IPAddress(item) for item in private if not any(item.overlaps(network) for network in networks)]
    return x509.NameConstraints([*names, *internet], excluded)


def _sign(builder: Any, key: Any, signer: Any, now: datetime.datetime | None, days: float) -> bytes:
    """Return a signed certificate (DER) for a public key, valid from `now` less CLOCK_SKEW until `now` plus `days`."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    now = now or datetime.datetime.now(datetime.UTC)
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + datetime.timedelta(days=days))
    signed: bytes = builder.sign(signer, SHA256()).public_bytes(Encoding.DER)
    return signed


def _private_der(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    private: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return private
