"""One pair of documents by which a reranker is known to work: the request, and what is wrong with an answer to it.

Used by the readiness probe, in drift too, and as a pattern by Caddy, which checks upstreams by nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from reranker.answers import read_ranking
from reranker.errors import MalformedAnswer

ScoreLimits = tuple[float, float]
# Rounding may put a cosine of equal texts a hair above 1.
RANGE_SLACK = 0.001


@dataclass(frozen=True)
class Readiness:
    """A query with a text that does not answer it and one that does, and the range of the model's scores, 0 to 1 or
    -1 to 1."""

    model: str
    query: str
    irrelevant: str
    relevant: str
    limits: ScoreLimits

    def request(self) -> dict[str, Any]:
        """Return the request's body: the irrelevant text comes first, so an answer that is not sorted is seen."""
        return {"model": self.model, "query": self.query, "documents": [self.irrelevant, self.relevant]}

    def pattern(self) -> str:
        """Return a regular expression for a good answer: the relevant text first, both scores numbers in range."""
        # 0.9, 9e-05, 1, 1.0004
        number = ("-?" if self.limits[0] < 0 else "") + r"(?:0(?:\.\d+)?|1(?:\.0\d*)?|\d(?:\.\d+)?[eE]-\d+)"
        one = r'\{{\s*"index":\s*{}\b.*?"relevance_score":\s*' + number + r"\s*\}}"
        return rf'(?s)"results":\s*\[\s*{one.format(1)}\s*,\s*{one.format(0)}\s*\]'

    def problem(self, answer: str) -> str:
        """Return what is wrong with an answer; empty if both scores are finite and in range, the relevant one's above
        the other."""
        try:
            _, found = read_ranking(json.loads(answer), range(2), None)
        except MalformedAnswer as error:
            return str(error)
        except (ValueError, RecursionError):
            return "its answer is not JSON"
        low, high = self.limits
        irrelevant, relevant = (score for _, score in sorted(found))
        wild = [score for score in (irrelevant, relevant) if not low - RANGE_SLACK <= score <= high + RANGE_SLACK]
        if wild:
            return f"a score of {wild[0]:g} is outside {low:g}..{high:g}"
        if relevant > irrelevant:
            return ""
        return f"{self.relevant!r} scores {relevant:.4g}, {self.irrelevant!r} {irrelevant:.4g}: the model does not rank"
