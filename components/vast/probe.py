"""Does the server answer? One real request to an instance's address, and what its answer, or silence, proves.

Generic over servers: method, path, headers, body, and what the answer must contain. Used by `rental` while an
instance boots and by `drift` when it is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from components.vast.identity import tls_context
from components.vast.json_values import Json, Wire

# ready: it served. dead: an answer that proves there is no such server. wrong_certificate: its
# certificate is not ours, and will not come to be. no_answer: nothing was heard, which proves nothing.
Verdict = Literal["ready", "dead", "wrong_certificate", "no_answer"]
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class ProbeResult:
    """What one probe saw."""

    verdict: Verdict
    detail: str


Probe = Callable[[str, int], ProbeResult]


@dataclass(frozen=True)
class HttpProbe:
    """A request that only a working server answers as expected.

    `headers` may hold ${NAME}, filled from the container's environment when sent, so that this record stays free of
    secrets. `expect_body` is a regular expression that the answer's text must contain. With a `ca_certificate` (PEM)
    it asks by TLS, and a server without a certificate of that CA for its address is dead.
    """

    port: int
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Json = None
    expect_body: str = ""
    ca_certificate: str = ""
    timeout_s: float = 10.0

    @classmethod
    def parse(cls, raw: Wire) -> HttpProbe:
        """Read a probe from a resource's inputs."""
        return cls(
            port=int(raw["port"]),
            method=str(raw.get("method") or "GET"),
            path=str(raw.get("path") or "/"),
            headers=dict(raw.get("headers") or {}),
            body=raw.get("body"),
            expect_body=str(raw.get("expect_body") or ""),
            ca_certificate=str(raw.get("ca_certificate") or ""),
            timeout_s=float(raw.get("timeout_s") or 10.0),
        )

    def names(self) -> set[str]:
        """Return the environment variables that it needs."""
        return {name for value in self.headers.values() for name in _PLACEHOLDER.findall(value)}

    def url(self, ip: str, host_port: int) -> str:
        """Return the address of the server, without a path."""
        return f"{'https' if self.ca_certificate else 'http'}://{ip}:{host_port}"

    def ask(self, ip: str, host_port: int, env: Mapping[str, str]) -> ProbeResult:
        """Send the request once and judge the answer."""
        import urllib3  # noqa: PLC0415 - only when something is probed
        from urllib3 import exceptions as failures  # noqa: PLC0415

        headers = {
            name: _PLACEHOLDER.sub(lambda found: env.get(found[1], ""), value) for name, value in self.headers.items()
        }
        timeout = urllib3.Timeout(connect=min(self.timeout_s, 5.0), read=self.timeout_s)
        pool = (
            urllib3.HTTPSConnectionPool(ip, host_port, timeout=timeout, ssl_context=tls_context(self.ca_certificate))
            if self.ca_certificate
            else urllib3.HTTPConnectionPool(ip, host_port, timeout=timeout)
        )
        with pool:
            try:
                answer = pool.request(
                    self.method, self.path, headers=headers, json=self.body, retries=False, redirect=False
                )
            except failures.SSLError as error:
                cause = _cause(error)
                return ProbeResult(
                    "wrong_certificate" if "CERTIFICATE_VERIFY_FAILED" in cause else "dead", f"TLS fails: {cause}"
                )
            except failures.NewConnectionError as error:  # before TimeoutError, which it is one of in urllib3 2
                return _connection(_cause(error))
            except failures.TimeoutError:
                return ProbeResult("no_answer", f"no answer within {self.timeout_s:g} s")
            except failures.ProtocolError as error:
                cut = _connection(_cause(error))
                # what came was an answer, so the address is reached: it stops short, or is no HTTP
                return (
                    ProbeResult("dead", "the answer is no whole HTTP")
                    if cut.verdict == "no_answer" and _came(error)
                    else cut
                )
            except (failures.HTTPError, ValueError) as error:
                return ProbeResult("dead", f"the request fails ({type(error).__name__})")
        if answer.status != 200:
            return ProbeResult("dead", f"HTTP {answer.status} on {self.path}")
        if self.expect_body and not re.search(self.expect_body, answer.data.decode(errors="replace")):
            return ProbeResult("dead", f"{self.path} answers 200 without {self.expect_body!r}")
        return ProbeResult("ready", "answers")


def _cause(error: BaseException) -> str:
    """Return the innermost cause of a urllib3 error, as text."""
    inner: BaseException = error
    while True:
        reason = inner.__cause__ or next((arg for arg in inner.args if isinstance(arg, BaseException)), None)
        if reason is None:
            return f"{type(inner).__name__}: {inner}"
        inner = reason


def _came(error: BaseException) -> bool:
    """Whether something was answered: what the network does is an OSError."""
    return not any(isinstance(one, OSError) for one in (error.__cause__, *error.args))


def _connection(cause: str) -> ProbeResult:
    if "refused" in cause.lower():
        return ProbeResult("dead", "the connection is refused")
    if any(sign in cause.lower() for sign in ("reset", "aborted", "remotedisconnected", "broken pipe")):
        return ProbeResult("dead", "the connection is cut off")
    return ProbeResult("no_answer", "the address cannot be reached")
