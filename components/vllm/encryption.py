"""TLS checks of an endpoint: with its CA, with public CAs, and without TLS. Run by `checks`."""

from __future__ import annotations

from components.vast.identity import DOMAIN
from components.vllm.score_checks import Check
from reranker.http import Answer, HttpTransport, Unanswered


def check_encryption(
    url: str, ca: str, server_name: str = "", *, thorough: bool = True, timeout_s: float = 15.0
) -> list[Check]:
    """Check certificate chain and names, and that the server does not answer plain HTTP.

    `ca`: PEM. `server_name`: a name that only this server has, in addition to its IP. `thorough` False omits the two
    checks with the same result on all servers with a certificate of this CA.
    """

    def request(address: str = url, **trust: str) -> Answer | Unanswered:
        try:
            return HttpTransport(connect_s=timeout_s, **trust)("GET", f"{address}/health", timeout_s=timeout_s)  # type: ignore[arg-type]
        except Unanswered as error:
            return error

    ip = url.rpartition("/")[2].rpartition(":")[0]
    checks = [judge_accepted(f"certificate for {ip}", request(ca=ca))]
    if server_name:
        checks.append(judge_accepted("certificate for its own name", request(ca=ca, server_name=server_name)))
    checks.append(judge_plain(request(url.replace("https:", "http:", 1))))
    if thorough:
        another_name = request(ca=ca, server_name=f"another.{DOMAIN}")
        checks.append(judge_refused("certificate for another name", another_name))
        checks.append(judge_refused("certificate by a public CA", request()))
    return checks


def judge_accepted(name: str, result: Answer | Unanswered) -> Check:
    """Judge a request whose handshake must succeed."""
    if isinstance(result, Answer) or result.sent:
        return Check(name, True, "chain and name are valid")
    advice = "destroy the instance and deploy again; if it fails again, a proxy in between terminates TLS"
    return Check(name, False, str(result), advice)


def judge_refused(name: str, result: Answer | Unanswered) -> Check:
    """Judge a request whose handshake must fail because of the certificate."""
    if isinstance(result, Unanswered) and result.kind == "untrusted":
        return Check(name, True, str(result))
    saw = "accepted" if isinstance(result, Answer) else str(result)
    return Check(name, False, saw, "this server is not the one that the stack deployed")


def judge_plain(result: Answer | Unanswered) -> Check:
    """Judge plain HTTP on the TLS port: no answer, or a proxy's 400, is correct."""
    name = "plain HTTP on the TLS port"
    if isinstance(result, Unanswered) or result.status == 400:
        return Check(name, True, "the server does not answer")
    advice = "the server was not started with its certificate: destroy it and deploy again"
    return Check(name, False, f"answers HTTP {result.status}", advice)
