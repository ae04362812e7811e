"""Parses the response bodies of /rerank, /score and /v1/models. Used by `client` and `upstream`.

Source of the formats: vLLM 0.19.1 and 0.32.0.
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
    """A scored document. `index` is its position in the input list."""

    index: int
    score: float
    text: str


@dataclass(frozen=True)
class Failed:
    """A document without a score, and the reason. `index` is its position in the input list."""

    index: int
    error: RerankerError


@dataclass(frozen=True)
class Ranking:
    """Scored documents, best first (equal scores in input order), and the model. Iterates over `results`.

    `failed`: documents without a score, in input order; empty unless the call had `partial=True`.
    """

    model: str
    results: tuple[Ranked, ...]
    failed: tuple[Failed, ...] = ()

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Ranked:
        return self.results[index]


@dataclass(frozen=True)
class ServedModel:
    """A model of /v1/models: its name for requests, the source of its weights, its context length in tokens."""

    id: str
    root: str
    max_model_len: int | None


def read_ranking(raw: Mapping[str, Any], part: range, top_n: int | None) -> tuple[str, list[tuple[int, float]]]:
    """Return the model and (index in the full list, score) for each result; `part` is the range of the request.

    Raises MalformedAnswer if an index is out of range or repeated, or if the number of results is wrong.
    """
    with _malformed_answer("/rerank"):
        results = [(part[_index(row, len(part))], _score(row, "relevance_score")) for row in raw["results"]]
        expected = len(part) if top_n is None else min(top_n, len(part))
        if len(results) != expected or len({index for index, _ in results}) != expected:
            raise ValueError(f"{len(results)} results for {expected} documents")
        return str(raw.get("model") or ""), results


def read_scores(raw: Mapping[str, Any], count: int) -> list[float]:
    """Return the scores of `count` pairs, in the order of the pairs. Raises MalformedAnswer."""
    with _malformed_answer("/score"):
        by_index = {_index(row, count): _score(row, "score") for row in raw["data"]}
        if not len(by_index) == len(raw["data"]) == count:
            raise ValueError(f"{len(raw['data'])} scores for {count} pairs")
        return [by_index[index] for index in range(count)]


def read_models(raw: Mapping[str, Any]) -> tuple[ServedModel, ...]:
    """Return the served models. Raises MalformedAnswer."""
    with _malformed_answer("/v1/models"):
        models = []
        for row in raw["data"]:
            length = row.get("max_model_len")
            if length is not None and not isinstance(length, int):
                raise ValueError("max_model_len is not a whole number")
            models.append(ServedModel(str(row["id"]), str(row.get("root") or row["id"]), length))
        return tuple(models)


@contextlib.contextmanager
def _malformed_answer(path: str) -> Iterator[None]:
    """Turn parse errors into MalformedAnswer. Its text contains field names, never the body."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise MalformedAnswer(
            f"{path}: HTTP 200 with a body that is not from a reranker ({detail}): check the address"
        ) from None


def _index(row: Mapping[str, Any], count: int) -> int:
    index = row["index"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
        raise ValueError(f"an index is not in 0..{count - 1}")
    return index


def _score(row: Mapping[str, Any], name: str) -> float:
    score = row[name]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(f"a {name} is not a finite number")
    return float(score)
