"""The meaning of scores, by kind of model. Used by score.py and rag.py.

Scores of cross-encoders such as bge are sigmoids between 0 and 1; scores of embedding models are cosines. Only the
order of scores is reliable: measure your own thresholds with your texts.
"""

from __future__ import annotations

BANDS = ((0.5, "high"), (0.1, "medium"), (0.01, "low"), (0.0, "irrelevant"))
COSINE = ("sentence-transformers/all-MiniLM-L6-v2",)


def band(value: float) -> str:
    """Return the usual meaning of a sigmoid score."""
    return next((name for minimum, name in BANDS if value >= minimum), BANDS[-1][1])


def is_cosine(model: str) -> bool:
    """Whether the scores of a model of the catalog are cosines."""
    return model in COSINE


def min_relevant_score(model: str) -> float:
    """Return the usual minimum score of a relevant document: an estimate."""
    return 0.3 if is_cosine(model) else 0.5
