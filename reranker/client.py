"""Reranker: the client class of the package. Ranks documents and scores pairs on one server.

Used by programs and by the commands of this package.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from random import random
from threading import Event
from typing import Any, TypeVar

from reranker.answers import Failed, Ranked, Ranking, ServedModel, read_models, read_ranking, read_scores
from reranker.batches import Limits, encode, encoded_sizes, request_in_halves, split
from reranker.endpoint import Endpoint, client_pem, pem
from reranker.errors import InvalidInput, RerankerError
from reranker.http import Transport
from reranker.patience import Patience
from reranker.stack import read_stack
from reranker.transport import Connection

Answer = TypeVar("Answer")
CONCURRENCY = 4


class Reranker:
    """Client of one reranker. Thread-safe. A context manager, which closes its connections.

    Long lists are split into several requests, `concurrency` at a time, and the results are merged. Each call ends
    within `patience.deadline_s`, including retries. All methods raise RerankerError; see `reranker.errors`.
    Tests replace `http`, `clock`, `sleep` and `chance`.

    >>> reranker = Reranker.from_stack("dev")                                       # doctest: +SKIP
    >>> reranker.rerank("What is deep learning?", ["I like pizza", "ML"], top_n=1)[0].text
    'ML'
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        patience: Patience | None = None,
        limits: Limits | None = None,
        concurrency: int = CONCURRENCY,
        http: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random,
    ) -> None:
        if concurrency < 1:
            raise InvalidInput("concurrency must be at least 1")
        self.endpoint = endpoint
        self.limits = limits or Limits()
        self.concurrency = concurrency
        self._connection = Connection(
            endpoint, patience or Patience(), keep=concurrency, http=http, clock=clock, sleep=sleep, chance=chance
        )

    @classmethod
    def from_stack(
        cls,
        stack: str | None = None,
        *,
        cwd: str | os.PathLike[str] | None = None,
        pulumi: str = "pulumi",
        client_certificate: str | os.PathLike[str] = "",
        client_key: str | os.PathLike[str] = "",
        **options: Any,
    ) -> Reranker:
        """Return a client for a deployed stack. `options` are those of the class. Raises StackError.

        `stack`: None is the selected stack. `cwd`: the project folder.
        """
        endpoint = read_stack(stack, cwd=cwd, pulumi=pulumi).endpoint
        return cls(replace(endpoint, client_certificate=client_pem(client_certificate, client_key)), **options)

    @classmethod
    def from_url(
        cls,
        url: str,
        api_key: str,
        ca_certificate: str | os.PathLike[str] = "",
        model: str | None = None,
        *,
        client_certificate: str | os.PathLike[str] = "",
        client_key: str | os.PathLike[str] = "",
        **options: Any,
    ) -> Reranker:
        """Return a client for an address. Without a CA, public CAs are trusted. CA and client certificate are PEM text
        or paths."""
        client = client_pem(client_certificate, client_key)
        return cls(Endpoint(url, api_key, pem(ca_certificate), model, client), **options)

    def __repr__(self) -> str:
        return f"Reranker({self.endpoint.url!r}, model={self.endpoint.model!r})"

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        *,
        min_score: float | None = None,
        model: str | None = None,
        truncate_prompt_tokens: int | None = None,
        partial: bool = False,
    ) -> Ranking:
        """Return the documents by relevance to the query, best first: all, or the `top_n` best.

        `min_score`: documents with a lower score are omitted. `truncate_prompt_tokens`: cut query plus document to this
        number of tokens, -1 to the model's length; without it the server refuses a document that is too long.
        `partial`: failed documents are listed in `failed`, and the others are ranked; raises if all fail.
        """
        documents = _texts("documents", documents)
        if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
            raise InvalidInput("top_n must be a whole number from 1, or None for all documents")
        encoded_sizes("query", _texts("query", [query]))
        fields = self._common_fields(model, truncate_prompt_tokens, query=query)
        models: set[str] = set()

        def send(part: range, deadline: float, stop: Event) -> list[tuple[int, float]]:
            limit = {} if top_n is None else {"top_n": min(top_n, len(part))}
            body = encode({**fields, **limit, "documents": documents[part.start : part.stop]})
            name, results = read_ranking(self._connection.request("POST", "/rerank", body, deadline, stop), part, top_n)
            models.add(name)
            return results

        fixed_bytes = len(encode({**fields, "top_n": top_n, "documents": []}))
        sizes = encoded_sizes("documents", documents)
        parts = split("documents", sizes, fixed_bytes, self.limits)
        failed: dict[int, RerankerError] = {}
        shortest = sizes.index(min(sizes)) if sizes else 0
        results = self._request_parts(send, parts, failed if partial else None, range(shortest, shortest + 1))
        if failed and not results:
            raise failed[min(failed)]
        results.sort(key=lambda result: (-result[1], result[0]))
        best = [(index, score) for index, score in results if min_score is None or score >= min_score][:top_n]
        return Ranking(
            next(iter(models), model or self.endpoint.model or ""),
            tuple(Ranked(index, score, documents[index]) for index, score in best),
            tuple(Failed(index, failed[index]) for index in sorted(failed)),
        )

    def score(
        self,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        *,
        model: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> tuple[float, ...]:
        """Return the scores of the pairs, in input order. A single text_1 is paired with each text_2; two lists of the
        same length are paired by position."""
        second = _texts("text_2", [text_2] if isinstance(text_2, str) else text_2)
        first = None if isinstance(text_1, str) else _texts("text_1", text_1)
        if first is not None and len(first) != len(second):
            raise InvalidInput(f"text_1 has {len(first)} texts and text_2 has {len(second)}: use equal numbers")
        fields = self._common_fields(model, truncate_prompt_tokens)

        def send(part: range, deadline: float, stop: Event) -> list[float]:
            texts = text_1 if first is None else first[part.start : part.stop]
            body = encode({**fields, "text_1": texts, "text_2": second[part.start : part.stop]})
            return read_scores(self._connection.request("POST", "/score", body, deadline, stop), len(part))

        sizes = encoded_sizes("text_2", second)
        first_sizes = encoded_sizes("text_1", [str(text_1)] if first is None else first)
        fixed_bytes = len(encode({**fields, "text_1": [], "text_2": []}))
        if first is None:
            fixed_bytes += first_sizes[0]
        else:
            sizes = list(map(sum, zip(first_sizes, sizes, strict=True)))
        return tuple(self._request_parts(send, split("text_2", sizes, fixed_bytes, self.limits)))

    def models(self) -> tuple[ServedModel, ...]:
        """Return the served models."""
        return read_models(self._connection.request("GET", "/v1/models", None, self._connection.deadline()))

    def _common_fields(self, model: str | None, truncate: int | None, **fields: object) -> dict[str, object]:
        """Return the fields that have a value: vLLM refuses null for some fields."""
        if truncate is not None and (type(truncate) is not int or truncate < -1 or truncate == 0):
            raise InvalidInput("truncate_prompt_tokens must be a number of tokens, or -1 for the model's length")
        fields |= {"model": model or self.endpoint.model, "truncate_prompt_tokens": truncate}
        return {name: value for name, value in fields.items() if value is not None}

    def _request_parts(
        self,
        send: Callable[[range, float, Event], list[Answer]],
        parts: list[range],
        failed: dict[int, RerankerError] | None = None,
        shortest: range | None = None,
    ) -> list[Answer]:
        """Return the answers for all parts, in order, within one deadline. The first raised error stops the others.

        `failed` and `shortest`: see `request_in_halves`.
        """
        deadline, stop = self._connection.deadline(), Event()

        def send_part(part: range) -> list[Answer]:
            return request_in_halves(lambda half: send(half, deadline, stop), part, failed, shortest)

        if len(parts) < 2:
            return send_part(parts[0]) if parts else []
        pool = ThreadPoolExecutor(min(self.concurrency, len(parts)), thread_name_prefix="reranker")
        try:
            futures = [pool.submit(send_part, part) for part in parts]
            for future in as_completed(futures):
                future.result()
            return [answer for future in futures for answer in future.result()]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _texts(name: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str | bytes):
        raise InvalidInput(f"{name} is one string: pass a list of strings")
    try:
        return list(texts)
    except TypeError:
        raise InvalidInput(f"{name} is {type(texts).__name__}, not a list of strings") from None
