"""What a score means, by kind of model. Used by the scripts beside it.

Cross-encoders such as bge answer with a sigmoid between 0 and 1, embedding models with a cosine, where 0.3 may mean
much or nothing. The order is what a model promises, not the numbers: measure your own cuts on your own texts.
"""

from __future__ import annotations

BANDS = ((0.5, "high"), (0.1, "medium"), (0.01, "low"), (0.0, "irrelevant"))
COSINE = ("sentence-transformers/all-MiniLM-L6-v2",)


def band(value: float) -> str:
    """Return what a sigmoid score usually means."""
    return next((name for least, name in BANDS if value >= least), BANDS[-1][1])


def is_cosine(model: str) -> bool:
    """Whether a model of the catalog answers with cosines."""
    return model in COSINE


def relevant_from(model: str) -> float:
    """Return the score from which a document usually has to do with the query: a rule of thumb."""
    return 0.3 if is_cosine(model) else 0.5
