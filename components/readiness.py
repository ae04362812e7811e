"""The readiness check of a reranker: a request with two documents, and the check of the answer.

Used by the readiness probe, also for drift. Caddy checks upstreams only by the pattern.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from reranker.answers import read_ranking
from reranker.errors import MalformedAnswer

ScoreLimits = tuple[float, float]
RANGE_SLACK = 0.001  # rounding may put the cosine of equal texts slightly above 1


@dataclass(frozen=True)
class Readiness:
    """A query with an irrelevant and a relevant text. `limits`: the range of the model's scores, 0 to 1 or -1 to 1."""

    model: str
    query: str
    irrelevant: str
    relevant: str
    limits: ScoreLimits

    def request(self) -> dict[str, Any]:
        """Return the request's body. The irrelevant text is first, so an unsorted answer is detected."""
        return {"model": self.model, "query": self.query, "documents": [self.irrelevant, self.relevant]}

    def pattern(self) -> str:
        """Return a regular expression for a good answer: the relevant text first, both scores numbers in range."""
        # 0.9, 9e-05, 1, 1.0004
        number = ("-?" if self.limits[0] < 0 else "") + r"(?:0(?:\.\d+)?|1(?:\.0\d*)?|\d(?:\.\d+)?[eE]-\d+)"
        result = r'\{{\s*"index":\s*{}\b.*?"relevance_score":\s*' + number + r"\s*\}}"
        return rf'(?s)"results":\s*\[\s*{result.format(1)}\s*,\s*{result.format(0)}\s*\]'

    def problem(self, answer: str) -> str:
        """Return the problem of an answer; empty if both scores are in range and the relevant text's is higher."""
        try:
            _, ranking = read_ranking(json.loads(answer), range(2), None)
        except MalformedAnswer as error:
            return str(error)
        except (ValueError, RecursionError):
            return "its answer is not JSON"
        low, high = self.limits
        irrelevant, relevant = (score for _, score in sorted(ranking))
        for score in (irrelevant, relevant):
            if not low - RANGE_SLACK <= score <= high + RANGE_SLACK:
                return f"a score of {score:g} is outside {low:g}..{high:g}"
        if relevant > irrelevant:
            return ""
        return f"{self.relevant!r} scores {relevant:.4g}, {self.irrelevant!r} {irrelevant:.4g}: the model does not rank"
