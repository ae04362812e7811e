"""The readiness probe: one real request to an instance's address, and the verdict on its answer or on no answer.

Generic over servers: method, path, headers, body, and what the answer must contain. Used by `rental` while an
instance boots and by `drift` when it is looked at again.
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

# ready: it served. dead: an answer that proves there is no such server. wrong_certificate: its certificate is not
# ours, and will not come to be. busy: it took the connection and has not answered yet, as one that hangs or has a long
# queue. no_answer: nothing was heard from the address, which proves nothing.
Verdict = Literal["ready", "dead", "wrong_certificate", "busy", "no_answer"]
VERDICTS: Mapping[Kind, Verdict] = {"timeout": "busy", "unreachable": "no_answer", "untrusted": "wrong_certificate"}
CONNECT_S = 5.0
MAX_BYTES = 1 << 20
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class ProbeResult:
    """What one probe saw."""

    verdict: Verdict
    detail: str


READY = ProbeResult("ready", "answers")
Probe = Callable[[str, int, str], ProbeResult]  # of IP, port, and the nonce by which the instance's own key is known


@dataclass(frozen=True)
class HttpProbe:
    """A request that only a working server answers as expected.

    `headers` may hold ${NAME}, filled from the container's environment when sent, so that this record stays free of
    secrets. `expect_body` is a regular expression that the answer's text must contain; `readiness` gives both body and
    judgement of it. With a `ca_certificate` (PEM) it asks by TLS, and a server without a certificate of that CA for its
    address is dead.
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
        """Return the address of the server, without a path."""
        return f"{'https' if self.ca_certificate else 'http'}://{ip}:{host_port}"

    def check(self, ip: str, host_port: int, env: Mapping[str, str]) -> ProbeResult:
        headers = {
            name: _PLACEHOLDER.sub(lambda found: env.get(found[1], ""), value) for name, value in self.headers.items()
        }
        send = HttpTransport(ca=self.ca_certificate, connect_s=CONNECT_S)
        request = self.readiness.request() if self.readiness else self.body
        body = None if request is None else json.dumps(request).encode()
        try:
            answer = send(
                self.method,
                self.url(ip, host_port) + self.path,
                body=body,
                headers=headers,
                timeout_s=self.timeout_s,
                max_bytes=MAX_BYTES,
            )
        except Unanswered as error:
            return ProbeResult(VERDICTS.get(error.kind, "dead"), str(error))
        if answer.status != 200:
            secrets = [env.get(name, "") for name in self.names()]
            return ProbeResult("dead", f"HTTP {answer.status} on {self.path}: {excerpt(answer.message(), secrets)}")
        problem = self.judge(answer.text)
        return ProbeResult("dead", f"{self.path} answers 200, but {problem}") if problem else READY

    def judge(self, text: str) -> str:
        """Return what is wrong with the body of a 200; empty for nothing."""
        if self.expect_body and not re.search(self.expect_body, text):
            return f"without {self.expect_body!r}"
        return self.readiness.problem(text) if self.readiness else ""
