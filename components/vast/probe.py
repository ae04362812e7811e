"""Readiness probe: one real request to an instance's server, and a verdict on the response.

Configured for any server: method, path, headers, body and expected response. Used by `rental` while an instance boots,
and by the Instance resource's `read`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from components.readiness import Readiness
from components.redaction import excerpt
from components.vast.json_values import Json
from reranker.http import HttpTransport, Kind, Unanswered

# ready: the server works. dead: the response proves that it does not. wrong_certificate: its certificate is not one of
# the stack's CA for its IP, or has ended. busy: it accepted the connection but did not respond: it hangs, or has a long
# queue. no_answer: no connection; its state is unknown.
Verdict = Literal["ready", "dead", "wrong_certificate", "busy", "no_answer"]
VERDICTS: Mapping[Kind, Verdict] = {"timeout": "busy", "unreachable": "no_answer", "untrusted": "wrong_certificate"}
CONNECT_S = 5.0
MAX_BYTES = 1 << 20
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class ProbeResult:
    verdict: Verdict
    detail: str


READY = ProbeResult("ready", "answers")
Probe = Callable[[str, int, str], ProbeResult]  # (ip, port, nonce of the instance's label)


@dataclass(frozen=True)
class HttpProbe:
    """A request, and the response expected from a working server.

    `headers` may contain ${NAME}: a variable of the container, filled in when sent, to keep this record free of
    secrets. `expect_body`: a regular expression that the response must contain. `readiness` makes the body and checks
    the response. With a `ca_certificate` (PEM) the probe uses TLS and requires a certificate of that CA for the IP.
    """

    port: int
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Json = None
    expect_body: str = ""
    readiness: Readiness | None = None
    ca_certificate: str = ""
    timeout_s: float = 10.0

    def names(self) -> set[str]:
        return {name for value in self.headers.values() for name in _PLACEHOLDER.findall(value)}

    def url(self, ip: str, host_port: int) -> str:
        """Return the server's URL without a path."""
        return f"{'https' if self.ca_certificate else 'http'}://{ip}:{host_port}"

    def check(self, ip: str, host_port: int, env: Mapping[str, str]) -> ProbeResult:
        headers = {
            name: _PLACEHOLDER.sub(lambda match: env.get(match[1], ""), value) for name, value in self.headers.items()
        }
        send = HttpTransport(ca=self.ca_certificate, connect_s=CONNECT_S)
        request = self.readiness.request() if self.readiness else self.body
        body = None if request is None else json.dumps(request).encode()
        url, timeout_s = self.url(ip, host_port) + self.path, self.timeout_s
        try:
            answer = send(self.method, url, body=body, headers=headers, timeout_s=timeout_s, max_bytes=MAX_BYTES)
        except Unanswered as error:
            return ProbeResult(VERDICTS.get(error.kind, "dead"), str(error))
        if answer.status != 200:
            secrets = [env.get(name, "") for name in self.names()]
            return ProbeResult("dead", f"HTTP {answer.status} on {self.path}: {excerpt(answer.message(), secrets)}")
        problem = self._problem(answer.text)
        return ProbeResult("dead", f"{self.path} answers 200, but {problem}") if problem else READY

    def _problem(self, text: str) -> str:
        """Return the problem with the body of a 200 response, or ""."""
        if self.expect_body and not re.search(self.expect_body, text):
            return f"without {self.expect_body!r}"
        return self.readiness.problem(text) if self.readiness else ""
