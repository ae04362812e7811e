"""What an endpoint shows to one who checks its certificate, and to one who speaks no TLS. Run by `checks`.

The sockets are here, the judgement of what they saw is a function of data below.
"""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from components.vast.identity import SERVER_NAME
from components.vllm.client import trusting
from components.vllm.score_checks import Check

PLAIN_REQUEST = b"POST /rerank HTTP/1.1\r\nHost: reranker\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
READ_BYTES = 512


def check_encryption(url: str, ca_file: str, *, thorough: bool = True, timeout_s: float = 15.0) -> list[Check]:
    """Check certificate chain and names, and that plain HTTP gets no answer from the server behind the port.

    Not `thorough`: without what holds of any server that shows a certificate of this CA.
    """
    parts = urlsplit(url)
    ip, port = parts.hostname or "", parts.port or 443
    own = trusting(ca_file)
    checks = [
        judge_accepted(f"certificate for {ip}", handshake(ip, port, own, ip, timeout_s)),
        judge_accepted(f"certificate for {SERVER_NAME}", handshake(ip, port, own, SERVER_NAME, timeout_s)),
        judge_plain(plain_answer(ip, port, timeout_s)),
    ]
    if not thorough:
        return checks
    public = ssl.create_default_context()
    return [
        *checks,
        judge_refused("certificate for another name", handshake(ip, port, own, "another.invalid", timeout_s)),
        judge_refused("certificate by a public CA", handshake(ip, port, public, ip, timeout_s)),
    ]


def handshake(ip: str, port: int, context: ssl.SSLContext, name: str, timeout_s: float) -> str:
    """Return "" when TLS is agreed on for this name, else why it is not."""
    try:
        with socket.create_connection((ip, port), timeout=timeout_s) as plain:
            context.wrap_socket(plain, server_hostname=name).close()
    except ssl.SSLCertVerificationError as error:
        return f"the certificate is refused: {error.verify_message}"
    except (OSError, ValueError) as error:
        return f"no TLS: {error}"
    return ""


def plain_answer(ip: str, port: int, timeout_s: float) -> bytes:
    """Return the first bytes that a plain HTTP request to the port is answered with; none where it is cut off."""
    try:
        with socket.create_connection((ip, port), timeout=timeout_s) as plain:
            plain.sendall(PLAIN_REQUEST)
            return plain.recv(READ_BYTES)
    except OSError:
        return b""


def judge_accepted(name: str, reason: str) -> Check:
    """Judge a handshake that has to succeed."""
    advice = "destroy the instance and deploy again; if it stays, something between you and it terminates TLS"
    return Check(name, False, reason, advice) if reason else Check(name, True, "chain and name hold")


def judge_refused(name: str, reason: str) -> Check:
    """Judge a handshake that has to fail by the certificate."""
    if reason.startswith("the certificate is refused"):
        return Check(name, True, reason)
    return Check(name, False, reason or "accepted", "this server is not the one that the stack deployed")


def judge_plain(answered: bytes) -> Check:
    """Judge what plain HTTP on the TLS port got: nothing, or a proxy's 400, but no answer of the server's."""
    name = "plain HTTP on the TLS port"
    if not answered.startswith(b"HTTP/") or answered.split(b" ", 2)[1:2] == [b"400"]:
        return Check(name, True, "gets no answer of the server")
    saw = f"answers {answered.splitlines()[0][:60].decode('latin-1')}"
    return Check(name, False, saw, "the server was not started with its certificate: destroy it and deploy again")
