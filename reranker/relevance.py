"""Metrics of ranking quality as defined by trec_eval: nDCG@k with linear gain, reciprocal rank, recall@k.

Called by `eval_command`. Libraries with these metrics (ir-measures, ranx) depend on NumPy and SciPy: 170 MB.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence


def ndcg(ranked: Sequence[Hashable], grades: Mapping[Hashable, float], k: int) -> float:
    """Return the discounted gain of the first `k` divided by the best possible gain: 0..1."""
    best = _gain(sorted(grades.values(), reverse=True)[:k])
    return _gain([grades.get(key, 0.0) for key in ranked[:k]]) / best if best else 0.0


def reciprocal_rank(ranked: Sequence[Hashable], grades: Mapping[Hashable, float]) -> float:
    """Return 1 / rank of the first relevant document, 0 if there is none."""
    return next((1 / rank for rank, key in enumerate(ranked, 1) if grades.get(key, 0.0) > 0), 0.0)


def recall(ranked: Sequence[Hashable], grades: Mapping[Hashable, float], k: int) -> float:
    """Return the share of the relevant documents that is among the first `k`."""
    relevant = {key for key, grade in grades.items() if grade > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def _gain(grades: Sequence[float]) -> float:
    return sum(max(grade, 0.0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))
