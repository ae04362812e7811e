"""Another certificate for a running server, for the private key that it has. Called by an Instance's update.

The server is recognised by its own name in the certificate that it shows, also after a move. It takes the new one on a
route of the guard, which asks for the server's own key.
"""

from __future__ import annotations

from components.errors import ServerError, ServerUnreachable
from components.redaction import excerpt
from components.vast.identity import expiry, fetch_certificate, server_name
from components.vast.rental_spec import Spec
from reranker.http import HttpTransport, Unanswered, bearer

TIMEOUT_S = 15.0


def renew_certificate(ip: str, port: int, spec: Spec, nonce: str) -> int:
    """Sign a certificate for a server's own key, this IP and its own name, and have the server show it; return when it
    ends, in seconds since the epoch. Raises ServerUnreachable, ServerError."""
    where, name = f"https://{ip}:{port}{spec.certificate_path}", server_name(nonce)
    if spec.authority is None or (shown := fetch_certificate(ip, port, spec.authority.certificate, name)) is None:
        raise ServerUnreachable(f"{where}: no certificate of {name} is shown there, so none is renewed")
    pem = spec.authority.renew(shown.certificate, ip, name)
    send = HttpTransport(ca=spec.authority.certificate, server_name=name)
    key = spec.env_for(nonce).get(spec.key_env, "")
    try:
        answer = send("PUT", where, body=pem.encode(), headers=bearer(key), timeout_s=TIMEOUT_S, max_bytes=1 << 16)
    except Unanswered as error:
        raise ServerUnreachable(f"{where}: the new certificate was sent, but {error}") from None
    if answer.status != 200:
        text = f"{where} takes no new certificate: HTTP {answer.status}: {excerpt(answer.message(), [key])}"
        raise ServerError(text, status=answer.status)
    return expiry(pem)
