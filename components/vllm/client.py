"""A client for what a deployment asks its servers: scores as they came, the routes, the guard's keys, raw requests.

Used by validation, ClientKeys and probes. Unlike the library `reranker`, whose transport and error texts it shares, it
neither sorts nor repeats, so that checks see what the server said. The key never shows in text or repr.
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
    """One document of an answer: its place in the request, its score, and its text as the server echoed it."""

    index: int
    score: float
    text: str | None


@dataclass(frozen=True)
class RerankAnswer:
    """An answer of /rerank: documents as the server ordered them, and the model it says it used."""

    model: str
    results: tuple[ScoredText, ...]


class RerankClient:
    """Asks one server. Every method raises ServerUnreachable when nothing answers, and ServerError otherwise.

    `ca`: a CA certificate that https is verified against, as PEM text or a path; public CAs where it is empty.
    `client_certificate`: PEM text of one and its private key, shown where it is asked for. `timeout_s` bounds a whole
    request. `transport` is the seam for tests.

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
        """Score documents against a query, best first. `truncate_prompt_tokens` -1 cuts at the model's own length."""
        body = {"query": query, "documents": list(documents), "model": model}
        return self._ask("POST", "/rerank", _read_ranking, body | {"truncate_prompt_tokens": truncate_prompt_tokens})

    def score(self, query: str, documents: Sequence[str], model: str | None = None) -> tuple[float, ...]:
        """Score documents against a query, in the order of the documents."""
        body = {"text_1": query, "text_2": list(documents), "model": model}
        return self._ask("POST", "/score", _read_scores, body)

    def models(self) -> tuple[ServedModel, ...]:
        return self._ask("GET", "/v1/models", read_models)

    def access(self) -> Access:
        """Return what the guard accepts beside the server's own key, with which to ask."""
        return self._ask("GET", KEYS_PATH, _read_access)

    def set_access(self, access: Access) -> None:
        """Set what the guard accepts beside the server's own key. Raises ServerError when that is not kept."""
        kept = self._ask("PUT", KEYS_PATH, _read_access, record(access))
        if not kept.is_same(access):
            text = f"{self.url}{KEYS_PATH}: keeps {len(kept.keys)} other keys, or another client_ca"
            raise ServerError(text, status=200, message="other keys")

    def routes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return path and methods of every route that the server registers, as its guard lists them."""
        return self._ask(
            "GET",
            ROUTES_PATH,
            lambda raw: tuple((str(path), tuple(map(str, methods))) for path, methods in raw["routes"]),
        )

    def probe_path(self, path: str, key: str | None) -> tuple[int, int]:
        """Try a path by GET and by POST, with this key or none; return both statuses. Raises ServerUnreachable."""
        return self.status("GET", path, bearer(key)), self.status("POST", path, bearer(key), PAIR_BODY)

    def status(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> int:
        """Return the status that a request gets, with these headers only and the path letter for letter."""
        return self._answer(method, path, headers, None if method in ("GET", "HEAD") else body).status

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        for again in (True, False):
            try:
                return self._send(
                    method, self.url + path, body=body, headers=headers, timeout_s=self._timeout_s, max_bytes=MAX_BYTES
                )
            except Unanswered as error:
                # vLLM 0.19.1 closes a kept connection after some refusals without saying so; scoring twice is harmless
                if not (again and error.broke):
                    where = f"{method} {self.url}{path.partition('?')[0]}"  # a query may hold a key
                    raise ServerUnreachable(f"{where}: {error}") from None
        raise AssertionError("unreachable")

    def _ask(
        self, method: str, path: str, read: Callable[[Mapping[str, Any]], T], body: Mapping[str, Any] | None = None
    ) -> T:
        """Send the fields that are given (vLLM refuses null for some that are not), and read the answer."""
        given = None if body is None else {key: value for key, value in body.items() if value is not None}
        answer = self._answer(method, path, bearer(self.key), None if given is None else json.dumps(given).encode())
        if answer.status != 200:
            message = self._shown(answer.message())
            hint = "; the API key is missing or not this server's" if answer.status == 401 else ""
            text = f"{method} {self.url}{path}: HTTP {answer.status}: {message}{hint}"
            raise ServerError(text, status=answer.status, message=message)
        raw = answer.json()
        try:
            if not isinstance(raw, dict):
                raise ValueError("not a JSON object")
            return read(raw)
        except (KeyError, TypeError, ValueError, AttributeError, errors.MalformedAnswer) as error:
            what = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
            raise ServerError(
                f"{self.url}{path}: HTTP 200 with a body that is not vLLM's ({what}): {self._shown(answer.text)}; "
                "is this address the reranker's?",
                status=200,
                message="malformed body",
            ) from None

    def _shown(self, text: str) -> str:
        return excerpt(text, [self.key] if self.key else [])


def _read_ranking(raw: Mapping[str, Any]) -> RerankAnswer:
    results = []
    for one in raw["results"]:
        document = one.get("document")
        text = document.get("text") if isinstance(document, dict) else document
        shown = None if text is None else str(text)
        results.append(ScoredText(_whole(one["index"]), _number(one["relevance_score"]), shown))
    return RerankAnswer(str(raw.get("model") or ""), tuple(results))


def _read_scores(raw: Mapping[str, Any]) -> tuple[float, ...]:
    by_index = {_whole(one["index"]): _number(one["score"]) for one in raw["data"]}
    return tuple(by_index[index] for index in range(len(raw["data"])))


def _read_access(raw: Mapping[str, Any]) -> Access:
    return structure(Access, {"keys": raw["keys"], "client_ca": raw.get("client_ca")})


def _number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"{raw!r} is not a score")
    return float(raw)


def _whole(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError(f"{raw!r} is not a whole number")
    return raw
