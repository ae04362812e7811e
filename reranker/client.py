"""Reranker: the client. Ranks documents and scores pairs on one server, in as many requests as its limits take.

What a program imports. `command` is the same on the command line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from random import random
from threading import Event
from types import TracebackType
from typing import Any, TypeVar

from reranker.answers import Failed, Ranked, Ranking, ServedModel, read_models, read_ranking, read_scores
from reranker.batches import Limits, encode, encoded_sizes, in_halves, split
from reranker.endpoint import Endpoint, client_pem, pem
from reranker.errors import InvalidInput, RerankerError
from reranker.http import Transport
from reranker.patience import Patience
from reranker.stack import read_stack
from reranker.transport import Connection

Answer = TypeVar("Answer")
CONCURRENCY = 4


class Reranker:
    """A reranker that serves. May be used by many threads at once, and as a context manager, which closes it.

    Lists that are longer than one request takes are split, `concurrency` requests at a time, and merged; every call is
    over within `patience.deadline_s`, repetitions included. Every method raises RerankerError; see `reranker.errors`.
    `http`, `clock`, `sleep` and `chance` are seams for tests.

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
            raise InvalidInput("concurrency is at least 1")
        self.endpoint = endpoint
        self.limits = limits or Limits()
        self.concurrency = concurrency
        self._connection = Connection(
            endpoint,
            patience or Patience(),
            connections=concurrency,
            http=http,
            clock=clock,
            sleep=sleep,
            chance=chance,
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
        """Return a client for a deployed stack, by its outputs. `options` are those of the class.

        `stack` None is the selected one; `cwd` is the project's folder. Raises StackError.
        """
        endpoint = read_stack(stack, cwd=cwd, pulumi=pulumi).endpoint
        shown = client_pem(client_certificate, client_key)
        return cls(replace(endpoint, client_certificate=shown), **options)

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
        """Return a client for an address. The CA is PEM text or a path; without one, public CAs are trusted. So are a
        client's certificate and its private key, where the server asks for one."""
        shown = client_pem(client_certificate, client_key)
        return cls(Endpoint(url, api_key, pem(ca_certificate), model, shown), **options)

    def __repr__(self) -> str:
        return f"Reranker({self.endpoint.url!r}, model={self.endpoint.model!r})"

    def __enter__(self) -> Reranker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Return documents by how well they answer the query, best first: all, or the `top_n` best.

        `min_score` leaves out what scores less. `truncate_prompt_tokens` cuts query and document together at so many
        tokens, -1 at the model's own length; without it the server refuses a document that is too long.
        With `partial`, what fails is in `failed` of the answer and the others are ranked; what fails all is raised.
        """
        documents = _texts("documents", documents)
        if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
            raise InvalidInput("top_n is a whole number from 1, or None for all documents")
        encoded_sizes("query", _texts("query", [query]))
        asked = self._asked(model, truncate_prompt_tokens, query=query)
        models: set[str] = set()

        def ask(part: range, deadline: float, stop: Event) -> list[tuple[int, float]]:
            cut = {} if top_n is None else {"top_n": min(top_n, len(part))}
            body = encode({**asked, **cut, "documents": documents[part.start : part.stop]})
            name, found = read_ranking(self._connection.ask("POST", "/rerank", body, deadline, stop), part, top_n)
            models.add(name)
            return found

        fixed_bytes = len(encode({**asked, "top_n": top_n, "documents": []}))
        sizes = encoded_sizes("documents", documents)
        parts = split("documents", sizes, fixed_bytes, self.limits)
        failed: dict[int, RerankerError] | None = {} if partial else None
        shortest = sizes.index(min(sizes)) if sizes else 0
        scored = sorted(self._all(ask, parts, failed, range(shortest, shortest + 1)), key=lambda one: (-one[1], one[0]))
        if failed and not scored:
            raise failed[min(failed)]
        best = [one for one in scored if min_score is None or one[1] >= min_score][:top_n]
        name = next(iter(models), model or self.endpoint.model or "")
        return Ranking(
            name,
            tuple(Ranked(index, score, documents[index]) for index, score in best),
            tuple(Failed(index, error) for index, error in sorted((failed or {}).items(), key=lambda one: one[0])),
        )

    def score(
        self,
        text_1: str | Sequence[str],
        text_2: str | Sequence[str],
        *,
        model: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> tuple[float, ...]:
        """Return the score of each pair: one text with one, one with many, or two lists of one length, pairwise.

        Scores come in the order of the texts, one for a single pair.
        """
        many = _texts("text_2", [text_2] if isinstance(text_2, str) else text_2)
        each = None if isinstance(text_1, str) else _texts("text_1", text_1)
        if each is not None and len(each) != len(many):
            raise InvalidInput(f"text_1 has {len(each)} texts and text_2 has {len(many)}: give one, or as many")
        asked = self._asked(model, truncate_prompt_tokens)

        def ask(part: range, deadline: float, stop: Event) -> list[float]:
            first = text_1 if each is None else each[part.start : part.stop]
            body = encode({**asked, "text_1": first, "text_2": many[part.start : part.stop]})
            return read_scores(self._connection.ask("POST", "/score", body, deadline, stop), len(part))

        sizes = encoded_sizes("text_2", many)
        firsts = encoded_sizes("text_1", [str(text_1)] if each is None else each)
        fixed_bytes = len(encode({**asked, "text_1": [], "text_2": []}))
        if each is None:
            fixed_bytes += firsts[0]
        else:
            sizes = [one + other for one, other in zip(firsts, sizes, strict=True)]
        return tuple(self._all(ask, split("text_2", sizes, fixed_bytes, self.limits)))

    def models(self) -> tuple[ServedModel, ...]:
        """Return what the server serves, and from which weights."""
        return read_models(self._connection.ask("GET", "/v1/models", None, self._connection.deadline()))

    def _asked(self, model: str | None, truncate: int | None, **fields: object) -> dict[str, object]:
        """Return the fields of a request that are given: vLLM refuses null for some that are not."""
        if truncate is not None and (isinstance(truncate, bool) or truncate < -1 or truncate == 0):
            raise InvalidInput("truncate_prompt_tokens is a number of tokens, or -1 for the model's own length")
        fields |= {"model": model or self.endpoint.model, "truncate_prompt_tokens": truncate}
        return {name: value for name, value in fields.items() if value is not None}

    def _all(
        self,
        ask: Callable[[range, float, Event], list[Answer]],
        parts: list[range],
        failed: dict[int, RerankerError] | None = None,
        shortest: range | None = None,
    ) -> list[Answer]:
        """Return the answers for all parts in their order, within one deadline. The first failure ends the rest.

        `failed` and `shortest` are those of `in_halves`.
        """
        deadline, stop = self._connection.deadline(), Event()

        def ask_part(part: range) -> list[Answer]:
            return in_halves(lambda half: ask(half, deadline, stop), part, failed, shortest)

        if len(parts) < 2:
            return [one for part in parts for one in ask_part(part)]
        pool = ThreadPoolExecutor(min(self.concurrency, len(parts)), thread_name_prefix="reranker")
        try:
            running = [pool.submit(ask_part, part) for part in parts]
            for done in as_completed(running):
                done.result()
            return [one for done in running for one in done.result()]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _texts(name: str, given: Sequence[str]) -> list[str]:
    if isinstance(given, str | bytes):
        raise InvalidInput(f"{name} is one string: give a list of them")
    try:
        return list(given)
    except TypeError:
        raise InvalidInput(f"{name} is {type(given).__name__}, not a list of strings") from None
