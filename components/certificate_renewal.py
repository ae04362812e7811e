"""Renews the certificate of a running server and keeps its private key. Called by an Instance's update.

The server is identified by the name in its current certificate, also after a move. The guard accepts the new
certificate on one route, with the server's own key.
"""

from __future__ import annotations

from components.errors import ServerError, ServerUnreachable
from components.redaction import excerpt
from components.vast.identity import expiry, fetch_certificate, server_name
from components.vast.rental_spec import Spec
from reranker.http import HttpTransport, Unanswered, bearer

TIMEOUT_S = 15.0


def renew_certificate(ip: str, port: int, spec: Spec, nonce: str) -> int:
    """Sign a certificate for a server's key, this IP and the server's name, and install it; return its end, in seconds
    since the epoch. Raises ServerUnreachable, ServerError."""
    url, name = f"https://{ip}:{port}{spec.certificate_path}", server_name(nonce)
    if spec.authority is None or (current := fetch_certificate(ip, port, spec.authority.certificate, name)) is None:
        raise ServerUnreachable(f"{url}: the server presents no certificate of {name}, so none is renewed")
    pem = spec.authority.renew(current.certificate, ip, name)
    send = HttpTransport(ca=spec.authority.certificate, server_name=name)
    key = spec.env_for(nonce).get(spec.key_env, "")
    try:
        answer = send("PUT", url, body=pem.encode(), headers=bearer(key), timeout_s=TIMEOUT_S, max_bytes=1 << 16)
    except Unanswered as error:
        raise ServerUnreachable(f"{url}: the new certificate was sent, but {error}") from None
    if answer.status != 200:
        reason = f"HTTP {answer.status}: {excerpt(answer.message(), [key])}"
        raise ServerError(f"{url} refuses the new certificate: {reason}", status=answer.status)
    return expiry(pem)
