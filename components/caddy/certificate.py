"""Checks the user's own gateway certificate before anything is rented. Called by `settings`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any


def certificate_problems(certificate: str, private_key: str, ca: str, host: str, now: datetime.datetime) -> list[str]:
    """Return why clients that trust `ca` (PEM; "": public CAs) would reject this PEM pair for `host`; no secrets."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        leaf, *chain = x509.load_pem_x509_certificates(certificate.encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except ValueError:
        return ["gateway.certificate: holds no certificate in PEM that can be read"]
    except x509.ExtensionNotFound:
        return ["gateway.certificate: names no host (subjectAltName)"]
    try:
        key: Any = load_pem_private_key(private_key.encode(), None)
    except (ValueError, TypeError):
        return ["gateway.private_key: is not a PEM key without a password (it is not shown)"]
    problems = []
    if key.public_key() != leaf.public_key():
        problems.append("gateway.private_key: is not that of gateway.certificate; the server's certificate comes first")
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        problems.append(
            f"gateway.certificate: is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}, not now"
        )
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not {host, f"*.{host.partition('.')[2]}"} & {*hosts}:
        problems.append(f"gateway.certificate: is for {', '.join(hosts)}, but gateway.url has {host}")
    for number, (signed, issuer) in enumerate(zip([leaf, *chain], chain, strict=False), start=1):
        if not _is_signed_by(signed, [issuer]):
            problems.append(f"gateway.certificate: its certificate {number} is not signed by certificate {number + 1}")
    if ca:
        try:
            trusted = x509.load_pem_x509_certificates(ca.encode())
        except ValueError:
            return [*problems, "gateway.ca_certificate: holds no certificate in PEM that can be read"]
        last = [leaf, *chain][-1]
        if last not in trusted and not _is_signed_by(last, trusted):
            problems.append("gateway.ca_certificate: has not signed the last certificate of gateway.certificate")
    return problems


def _is_signed_by(certificate: Any, issuers: Sequence[Any]) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    for issuer in issuers:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False
