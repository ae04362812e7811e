"""A client for vLLM's scoring routes: /rerank, /score, /v1/models. Used by validation, probes and scripts.

What comes off the wire becomes frozen records here or is an error; nothing else of this project reads vLLM's JSON.
Bodies: vLLM 0.19.1 and 0.32.0, entrypoints/pooling (rerank and score protocols). The key never shows in text or repr.
"""

from __future__ import annotations

import functools
import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from components.errors import ServerError, ServerUnreachable
from components.redaction import scrub

if TYPE_CHECKING:
    import requests

SHOWN_CHARS = 300
# What a request meets on a kept connection that the server has closed in the meantime.
CUT_OFF = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
KEYS_PATH = "/guard/keys"
ROUTES_PATH = "/guard/routes"
PAIR_BODY = b'{"query": "q", "documents": ["d"], "text_1": "q", "text_2": "d"}'


@dataclass(frozen=True)
class Ranked:
    """One document of an answer: its place in the request, its score, and its text as the server echoed it."""

    index: int
    score: float
    text: str | None


@dataclass(frozen=True)
class RerankAnswer:
    """An answer of /rerank: documents as the server ordered them, best first, and the model it says it used."""

    model: str
    results: tuple[Ranked, ...]


@dataclass(frozen=True)
class ServedModel:
    """A model as /v1/models lists it: the name to ask for, where its weights came from, and its context in tokens."""

    id: str
    root: str
    max_model_len: int | None


class RerankClient:
    """Asks one server. Every method raises ServerUnreachable when nothing answers, and ServerError otherwise.

    `verify` is as in requests: True, or the path of a CA certificate. `session` is the seam for tests.

    >>> client = RerankClient("http://203.0.113.7:41025", "the key")             # doctest: +SKIP
    >>> client.rerank("What is deep learning?", ["I like pizza", "Deep learning is ML"]).results[0].index
    1
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        session: requests.Session | None = None,
        verify: bool | str = True,
        timeout_s: float = 30.0,
    ) -> None:
        if session is None:
            import requests  # noqa: PLC0415 - 100 ms that only a caller pays

            session = requests.Session()
            session.trust_env = False  # no proxy, no .netrc: an instance is reached at its own address
        self.url = url.rstrip("/")
        self._api_key = api_key
        self._session = session
        self._verify = verify
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"RerankClient({self.url!r}, {'with a key' if self._api_key else 'no key'})"

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        model: str | None = None,
        top_n: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> RerankAnswer:
        """Score documents against a query, best first. `truncate_prompt_tokens` -1 cuts at the model's own length."""
        body = _without_none(
            query=query,
            documents=list(documents),
            model=model,
            top_n=top_n,
            truncate_prompt_tokens=truncate_prompt_tokens,
        )
        raw = self._ask("POST", "/rerank", body)
        try:
            return RerankAnswer(str(raw.get("model") or ""), tuple(_ranked(one) for one in raw["results"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._malformed("/rerank", error, raw)

    def score(
        self,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        model: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> tuple[float, ...]:
        """Score pairs, one with one, one with many or each with its own; scores come in the order of the texts."""
        body = _without_none(
            text_1=text_1 if isinstance(text_1, str) else list(text_1),
            text_2=text_2 if isinstance(text_2, str) else list(text_2),
            model=model,
            truncate_prompt_tokens=truncate_prompt_tokens,
        )
        raw = self._ask("POST", "/score", body)
        try:
            by_index = {_whole(one["index"]): _number(one["score"]) for one in raw["data"]}
            return tuple(by_index[index] for index in range(len(raw["data"])))
        except (KeyError, TypeError, ValueError) as error:
            self._malformed("/score", error, raw)

    def models(self) -> tuple[ServedModel, ...]:
        """List what is served, and from which weights."""
        raw = self._ask("GET", "/v1/models", None)
        try:
            return tuple(
                ServedModel(str(one["id"]), str(one.get("root") or one["id"]), _whole_or_none(one.get("max_model_len")))
                for one in raw["data"]
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._malformed("/v1/models", error, raw)

    def list_keys(self) -> list[str]:
        """Return the SHA-256 digests (hex) of the keys that the guard accepts beside the stack's own, with which to
        ask."""
        return self._digests("GET", None)

    def set_keys(self, digests: Sequence[str]) -> None:
        """Set the keys that the guard accepts beside the stack's own. Raises ServerError when they are not kept."""
        kept = self._digests("PUT", {"keys": list(digests)})
        if set(kept) != set(digests):
            raise ServerError(f"{self.url}{KEYS_PATH}: keeps {len(kept)} other keys", status=200, message="other keys")

    def _digests(self, method: str, body: Mapping[str, Any] | None) -> list[str]:
        raw = self._ask(method, KEYS_PATH, body)
        try:
            return [str(one) for one in raw["keys"]]
        except (KeyError, TypeError) as error:
            self._malformed(KEYS_PATH, error, raw)

    @property
    def key(self) -> str | None:
        """The key that this client presents."""
        return self._api_key

    def routes(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return path and methods of every route that the server registers, as its guard lists them."""
        raw = self._ask("GET", ROUTES_PATH, None)
        try:
            return tuple((str(path), tuple(map(str, methods))) for path, methods in raw["routes"])
        except (KeyError, TypeError, ValueError) as error:
            self._malformed(ROUTES_PATH, error, raw)

    def probe_path(self, path: str, key: str | None) -> tuple[int, int]:
        """Try a path by GET and by POST, with this key or none; return both statuses. Raises ServerUnreachable."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        line = self.line()
        try:
            return line.ask("GET", path, headers, b""), line.ask("POST", path, headers, PAIR_BODY)
        finally:
            line.close()

    def line(self) -> RawConnection:
        """Return a connection for requests that no library has tidied up."""
        return RawConnection(self.url, self._verify, self._timeout_s)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        import requests  # noqa: PLC0415

        where = f"{method} {self.url}{path}"
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        for again in (True, False):
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, headers=headers, verify=self._verify, timeout=self._timeout_s
                )
                break
            except requests.Timeout:
                raise ServerUnreachable(f"{where}: no answer within {self._timeout_s:g} s") from None
            except requests.exceptions.InvalidHeader:  # its text is the header, with the key in it
                raise ServerUnreachable(f"{where}: the key holds a character that no header can carry") from None
            except (requests.RequestException, ValueError) as error:
                # vLLM 0.19.1 closes a kept connection after some refusals without saying so; scoring twice is harmless
                if not (again and isinstance(_cause(error), CUT_OFF)):
                    raise ServerUnreachable(f"{where}: {self._shown(_innermost(error))}") from None
        if answer.status_code != 200:
            said = self._shown(_message(answer))
            hint = "; the API key is missing or not this server's" if answer.status_code in (401, 403) else ""
            raise ServerError(
                f"{where}: HTTP {answer.status_code}: {said}{hint}", status=answer.status_code, message=said
            )
        try:
            raw = answer.json()
        except ValueError:
            raw = answer.text
        if not isinstance(raw, dict):
            self._malformed(path, ValueError("not a JSON object"), raw)
        return raw

    def _malformed(self, path: str, error: Exception, raw: object) -> NoReturn:
        what = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise ServerError(
            f"{self.url}{path}: HTTP 200 with a body that is not vLLM's ({what}): {self._shown(str(raw))}; "
            "is this address the reranker's?",
            status=200,
            message="malformed body",
        ) from None

    def _shown(self, text: str) -> str:
        text = scrub(text, [self._api_key] if self._api_key else []).strip()
        return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


@functools.cache
def trusting(ca_file: str | None) -> ssl.SSLContext:
    """Return what trusts the CA of a file, or the public ones, made once: to read them costs more than a request."""
    return ssl.create_default_context(cafile=ca_file)


class RawConnection:
    """A connection that is kept, and that sends paths letter for letter as given."""

    def __init__(self, url: str, verify: bool | str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._url = url
        self._line: http.client.HTTPConnection
        if parts.scheme == "http":
            self._line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        else:
            context = trusting(verify if isinstance(verify, str) else None)
            self._line = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=context
            )

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Return the status that a request gets. Raises ServerUnreachable, without the query, which may hold a key."""
        sent = {"Content-Type": "application/json", **headers}
        for again in (True, False):  # a kept connection may have been closed by the server meanwhile
            try:
                self._line.request(method, path, body=None if method in ("GET", "HEAD") else body, headers=sent)
                answer = self._line.getresponse()
                answer.read()
                return answer.status
            except (OSError, http.client.HTTPException) as error:
                self._line.close()
                if not again or isinstance(error, TimeoutError):
                    where = f"{method} {self._url}{path.partition('?')[0]}"
                    raise ServerUnreachable(f"{where}: {error or type(error).__name__}") from None
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connection."""
        self._line.close()


def _ranked(raw: Mapping[str, Any]) -> Ranked:
    document = raw.get("document")
    text = document.get("text") if isinstance(document, dict) else document
    return Ranked(_whole(raw["index"]), _number(raw["relevance_score"]), None if text is None else str(text))


def _number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"{raw!r} is not a score")
    return float(raw)


def _whole(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError(f"{raw!r} is not a whole number")
    return raw


def _whole_or_none(raw: object) -> int | None:
    return None if raw is None else _whole(raw)


def _without_none(**fields: object) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value is not None}


def _message(answer: requests.Response) -> str:
    """Return what an error body says: vLLM's {"error": {"message"}} or {"error"}, FastAPI's {"detail"}, or its text."""
    try:
        raw = answer.json()
    except ValueError:
        return answer.text or answer.reason or "no text"
    if isinstance(raw, dict):
        error = raw.get("error")
        if isinstance(error, dict) and error.get("message"):
            return str(error["message"])
        return str(error or raw.get("detail") or raw.get("message") or raw)
    return str(raw)


def _cause(error: BaseException) -> BaseException:
    """Return what is at the bottom of an error that requests and urllib3 have wrapped."""
    seen = error
    while isinstance(inner := getattr(seen, "reason", None) or seen.__cause__ or seen.__context__, BaseException):
        seen = inner
    return seen


def _innermost(error: BaseException) -> str:
    """Return the words of the cause that a person can use; requests wraps it several times."""
    cause = _cause(error)
    return str(cause) or type(cause).__name__
