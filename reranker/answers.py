"""What a server sends back, as frozen records: read from vLLM's JSON here and nowhere else. Used by `client`.

Bodies: vLLM 0.19.1 and 0.32.0, /rerank, /score and /v1/models.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reranker.errors import MalformedAnswer, RerankerError


@dataclass(frozen=True)
class Ranked:
    """One document: its place in the list that was given, its score, and its text."""

    index: int
    score: float
    text: str


@dataclass(frozen=True)
class Failed:
    """A document that has no score, by its place in the list that was given, and why."""

    index: int
    error: RerankerError


@dataclass(frozen=True)
class Ranking:
    """Documents, best first (equal scores in the order given), and the model that scored them. Iterates as a tuple.

    `failed` are those without a score, in the order given: only a call with `partial=True` has any.
    """

    model: str
    results: tuple[Ranked, ...]
    failed: tuple[Failed, ...] = ()

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, place: int) -> Ranked:
        return self.results[place]


@dataclass(frozen=True)
class ServedModel:
    """A model as /v1/models lists it: the name to ask for, where its weights came from, its context in tokens."""

    id: str
    root: str
    max_model_len: int | None


def read_ranking(raw: Mapping[str, Any], part: range, top_n: int | None) -> tuple[str, list[tuple[int, float]]]:
    """Return model and (index in the whole list, score) of an answer to the documents of `part`.

    Raises MalformedAnswer unless each index is one that was sent, at most once, and as many came as were asked for.
    """
    with _understood("/rerank"):
        found = [(part[_index(one, len(part))], _score(one, "relevance_score")) for one in raw["results"]]
        wanted = len(part) if top_n is None else min(top_n, len(part))
        if len(found) != wanted or len({index for index, _ in found}) != wanted:
            raise ValueError(f"{len(found)} results for {wanted} documents")
        return str(raw.get("model") or ""), found


def read_scores(raw: Mapping[str, Any], count: int) -> list[float]:
    """Return the scores of an answer to `count` pairs, in the order of the pairs. Raises MalformedAnswer."""
    with _understood("/score"):
        by_index = {_index(one, count): _score(one, "score") for one in raw["data"]}
        if not len(by_index) == len(raw["data"]) == count:
            raise ValueError(f"{len(raw['data'])} scores for {count} pairs")
        return [by_index[index] for index in range(count)]


def read_models(raw: Mapping[str, Any]) -> tuple[ServedModel, ...]:
    """Return what is served. Raises MalformedAnswer."""
    with _understood("/v1/models"):
        found = []
        for one in raw["data"]:
            length = one.get("max_model_len")
            if length is not None and not isinstance(length, int):
                raise ValueError("max_model_len is not a whole number")
            found.append(ServedModel(str(one["id"]), str(one.get("root") or one["id"]), length))
        return tuple(found)


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
    """Turn what reading a foreign body may raise into MalformedAnswer. Shows field names, never the body."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise MalformedAnswer(
            f"{path} answered 200 with a body that is not a reranker's ({what}): is this address right?"
        ) from None


def _index(one: Mapping[str, Any], count: int) -> int:
    index = one["index"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
        raise ValueError(f"an index that is none of 0..{count - 1}")
    return index


def _score(one: Mapping[str, Any], name: str) -> float:
    score = one[name]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(f"a {name} that is no number")
    return float(score)
