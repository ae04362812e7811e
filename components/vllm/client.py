"""A client for a deployment's own requests to a server: raw scores, routes, the guard's keys, raw statuses.

Used by validation, ClientKeys and probes. It shares transport and error texts with the library `reranker`, but does not
sort results or retry answers: checks need the raw answer. Texts and repr never contain the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from components.errors import ServerError, ServerUnreachable
from components.guard.keys import Access
from components.records import record, structure
from components.redaction import excerpt
from reranker import errors
from reranker.answers import ServedModel, read_models
from reranker.endpoint import pem
from reranker.http import Answer, HttpTransport, Transport, Unanswered, bearer

KEPT_CONNECTIONS = 8
MAX_BYTES = 4 << 20
KEYS_PATH = "/guard/keys"
ROUTES_PATH = "/guard/routes"
T = TypeVar("T")
PAIR_BODY = b'{"query": "q", "documents": ["d"]}'


@dataclass(frozen=True)
class ScoredText:
    """One document of an answer: its index in the request, its score, and the text that the server returned."""

    index: int
    score: float
    text: str | None


@dataclass(frozen=True)
class RerankAnswer:
    """An answer of /rerank: documents in the server's order, and the server's model name."""

    model: str
    results: tuple[ScoredText, ...]


class RerankClient:
    """The client of one server. Every method raises ServerUnreachable without an answer, and ServerError for an error.

    `ca`: a CA certificate to verify https, as PEM text or a path; empty means public CAs. `client_certificate`: PEM
    text of a client certificate and its private key. `timeout_s`: limit of a whole request. `transport`: for tests.

    >>> client = RerankClient("http://203.0.113.7:41025", "the key")             # doctest: +SKIP
    >>> client.rerank("What is deep learning?", ["I like pizza", "Deep learning is ML"]).results[0].index
    1
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        ca: str = "",
        client_certificate: str = "",
        transport: Transport | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.key = api_key
        self._send: Transport = transport or HttpTransport(
            ca=pem(ca), client_certificate=client_certificate, keep=KEPT_CONNECTIONS
        )
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"RerankClient({self.url!r}, {'with a key' if self.key else 'no key'})"

    def rerank(
        self, query: str, documents: Sequence[str], model: str | None = None, truncate_prompt_tokens: int | None = None
    ) -> RerankAnswer:
        """Score documents against a query, best first. `truncate_prompt_tokens` -1 truncates at the model's context."""
        body = {"query": query, "documents": list(documents), "model": model}
        return self._call("POST", "/rerank", _parse_ranking, body | {"truncate_prompt_tokens": truncate_prompt_tokens})

    def score(self, query: str, documents: Sequence[str], model: str | None = None) -> tuple[float, ...]:
        """Score documents against a query, in the order of the documents."""
        body = {"text_1": query, "text_2": list(documents), "model": model}
        return self._call("POST", "/score", _parse_scores, body)

    def models(self) -> tuple[ServedModel, ...]:
        return self._call("GET", "/v1/models", read_models)

    def access(self) -> Access:
        """Return the guard's client keys. Needs the server's management key."""
        return self._call("GET", KEYS_PATH, _parse_access)

    def set_access(self, access: Access) -> None:
        """Replace the guard's client keys. Raises ServerError if the guard answers with other keys."""
        stored = self._call("PUT", KEYS_PATH, _parse_access, record(access))
        if not stored.is_same(access):
            text = f"{self.url}{KEYS_PATH}: stores {len(stored.keys)} other keys, or another client_ca"
            raise ServerError(text, status=200, message="other keys")

    def routes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return path and methods of every route of vLLM, from the guard's list."""
        return self._call("GET", ROUTES_PATH, _parse_routes)

    def probe_path(self, path: str, key: str | None) -> tuple[int, int]:
        """Return the statuses of GET and POST on a path, with this key or none. Raises ServerUnreachable."""
        return self.status("GET", path, bearer(key)), self.status("POST", path, bearer(key), PAIR_BODY)

    def status(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> int:
        """Return the status of a request with only these headers. The path is sent unchanged."""
        return self._send_request(method, path, headers, None if method in ("GET", "HEAD") else body).status

    def _send_request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        for may_retry in (True, False):
            try:
                return self._send(
                    method, self.url + path, body=body, headers=headers, timeout_s=self._timeout_s, max_bytes=MAX_BYTES
                )
            except Unanswered as error:
                # vLLM 0.19.1 closes a kept connection after some refusals without notice; scoring is idempotent
                if not (may_retry and error.broke):
                    where = f"{method} {self.url}{path.partition('?')[0]}"  # a query may contain a key
                    raise ServerUnreachable(f"{where}: {error}") from None
        raise AssertionError("unreachable")

    def _call(
        self, method: str, path: str, read: Callable[[Mapping[str, Any]], T], body: Mapping[str, Any] | None = None
    ) -> T:
        """Send a request and read the answer. Fields with None are left out: vLLM rejects null for some of them."""
        fields = None if body is None else {key: value for key, value in body.items() if value is not None}
        data = None if fields is None else json.dumps(fields).encode()
        answer = self._send_request(method, path, bearer(self.key), data)
        if answer.status != 200:
            message = self._excerpt(answer.message())
            hint = "; the API key is missing or not this server's" if answer.status == 401 else ""
            text = f"{method} {self.url}{path}: HTTP {answer.status}: {message}{hint}"
            raise ServerError(text, status=answer.status, message=message)
        raw = answer.json()
        try:
            if not isinstance(raw, dict):
                raise ValueError("not a JSON object")
            return read(raw)
        except (KeyError, TypeError, ValueError, AttributeError, errors.MalformedAnswer) as error:
            reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
            raise ServerError(
                f"{self.url}{path}: HTTP 200 with a body that is not vLLM's ({reason}): {self._excerpt(answer.text)}; "
                "is this address the reranker's?",
                status=200,
                message="malformed body",
            ) from None

    def _excerpt(self, text: str) -> str:
        return excerpt(text, [self.key] if self.key else [])


def _parse_ranking(raw: Mapping[str, Any]) -> RerankAnswer:
    results = []
    for result in raw["results"]:
        document = result.get("document")
        text = document.get("text") if isinstance(document, dict) else document
        score = _parse_score(result["relevance_score"])
        results.append(ScoredText(_parse_index(result["index"]), score, None if text is None else str(text)))
    return RerankAnswer(str(raw.get("model") or ""), tuple(results))


def _parse_scores(raw: Mapping[str, Any]) -> tuple[float, ...]:
    by_index = {_parse_index(row["index"]): _parse_score(row["score"]) for row in raw["data"]}
    return tuple(by_index[index] for index in range(len(raw["data"])))


def _parse_routes(raw: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((str(path), tuple(map(str, methods))) for path, methods in raw["routes"])


def _parse_access(raw: Mapping[str, Any]) -> Access:
    return structure(Access, {"keys": raw["keys"], "client_ca": raw.get("client_ca")})


def _parse_score(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"{raw!r} is not a score")
    return float(raw)


def _parse_index(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError(f"{raw!r} is not a whole number")
    return raw
