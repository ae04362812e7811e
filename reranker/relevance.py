"""How good a ranking is, by trec_eval's definitions: nDCG@k with linear gain, reciprocal rank, recall@k. Pure.

Called by `eval_command`. The libraries that have them (ir-measures, ranx) bring NumPy and SciPy: 170 MB.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence


def ndcg(ranked: Sequence[Hashable], grades: Mapping[Hashable, float], k: int) -> float:
    """Return the discounted gain of the first `k`, as a share of the best possible one. 0..1."""
    best = _gain(sorted(grades.values(), reverse=True)[:k])
    return _gain([grades.get(one, 0.0) for one in ranked[:k]]) / best if best else 0.0


def reciprocal_rank(ranked: Sequence[Hashable], grades: Mapping[Hashable, float]) -> float:
    """Return 1 over the place of the first relevant document; 0 where there is none."""
    return next((1 / place for place, one in enumerate(ranked, 1) if grades.get(one, 0.0) > 0), 0.0)


def recall(ranked: Sequence[Hashable], grades: Mapping[Hashable, float], k: int) -> float:
    """Return which share of the relevant documents is among the first `k`."""
    relevant = {one for one, grade in grades.items() if grade > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def _gain(grades: Sequence[float]) -> float:
    return sum(max(grade, 0.0) / math.log2(place + 1) for place, grade in enumerate(grades, 1))
