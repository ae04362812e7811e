"""TLS checks of an endpoint: with the right CA, with another one, and without TLS. Run by `checks`."""

from __future__ import annotations

from components.vast.identity import DOMAIN
from components.vllm.score_checks import Check
from reranker.http import Answer, HttpTransport, Unanswered


def check_encryption(
    url: str, ca: str, server_name: str = "", *, thorough: bool = True, timeout_s: float = 15.0
) -> list[Check]:
    """Check certificate chain and names, and that plain HTTP gets no answer from the server behind the port.

    `ca`: PEM. `server_name`: this server's alone, beside its IP. `thorough` False leaves out the two checks that come
    out alike for all servers with a certificate of this CA.
    """

    def ask(address: str = url, **trust: str) -> Answer | Unanswered:
        try:
            return HttpTransport(connect_s=timeout_s, **trust)("GET", f"{address}/health", timeout_s=timeout_s)  # type: ignore[arg-type]
        except Unanswered as error:
            return error

    ip = url.rpartition("/")[2].rpartition(":")[0]
    checks = [
        judge_accepted(f"certificate for {ip}", ask(ca=ca)),
        *([judge_accepted("certificate for its own name", ask(ca=ca, server_name=server_name))] if server_name else []),
        judge_plain(ask(url.replace("https:", "http:", 1))),
    ]
    if not thorough:
        return checks
    return [
        *checks,
        judge_refused("certificate for another name", ask(ca=ca, server_name=f"another.{DOMAIN}")),
        judge_refused("certificate by a public CA", ask()),
    ]


def judge_accepted(name: str, found: Answer | Unanswered) -> Check:
    """Judge a request whose handshake has to succeed."""
    if isinstance(found, Answer) or found.sent:
        return Check(name, True, "chain and name hold")
    advice = "destroy the instance and deploy again; if it stays, something between you and it terminates TLS"
    return Check(name, False, str(found), advice)


def judge_refused(name: str, found: Answer | Unanswered) -> Check:
    """Judge a request whose handshake has to fail by the certificate."""
    if isinstance(found, Unanswered) and found.kind == "untrusted":
        return Check(name, True, str(found))
    saw = "accepted" if isinstance(found, Answer) else str(found)
    return Check(name, False, saw, "this server is not the one that the stack deployed")


def judge_plain(found: Answer | Unanswered) -> Check:
    """Judge what plain HTTP on the TLS port got: nothing, or a proxy's 400, but no answer of the server's."""
    name = "plain HTTP on the TLS port"
    if isinstance(found, Unanswered) or found.status == 400:
        return Check(name, True, "gets no answer of the server")
    advice = "the server was not started with its certificate: destroy it and deploy again"
    return Check(name, False, f"answers HTTP {found.status}", advice)
