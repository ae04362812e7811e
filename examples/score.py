"""Scores documents against a query with /score, and prints them best first: python examples/score.py --stack local

/score keeps the order of the documents that were sent, so ranking is up to the caller; /rerank sorts by itself.
"""

from __future__ import annotations

import argparse
import sys

import requests
from stack import TIMEOUT_S, Endpoint, endpoint_from_args

QUERY = "What is deep learning?"
DOCUMENTS = [
    "Deep learning is a subset of machine learning that uses neural networks with many layers.",
    "The weather is nice today.",
    "Deep learning enables computers to learn from large amounts of data.",
    "I like pizza.",
]
# A rule of thumb for cross-encoders such as bge, whose scores are sigmoids between 0 and 1: the order is what the model
# promises, not the numbers. Measure your own threshold on your own texts.
BANDS = ((0.5, "high"), (0.1, "medium"), (0.01, "low"), (0.0, "irrelevant"))
# Embedding models answer with a cosine, where 0.3 may mean nothing at all.
COSINE = ("sentence-transformers/all-MiniLM-L6-v2",)


def score(endpoint: Endpoint, query: str, documents: list[str]) -> list[float]:
    """Return one score per document, in the order of the documents."""
    try:
        answer = requests.post(
            f"{endpoint.url}/score",
            headers={"Authorization": f"Bearer {endpoint.api_key}"},
            json={"model": endpoint.model, "text_1": query, "text_2": documents},
            timeout=TIMEOUT_S,
        )
    except requests.RequestException as error:
        sys.exit(f"cannot reach {endpoint.url}: {error}")
    if answer.status_code != 200:
        sys.exit(f"{endpoint.url}/score answered {answer.status_code}: {answer.text[:300]}")
    return [item["score"] for item in sorted(answer.json()["data"], key=lambda item: item["index"])]


def band(value: float) -> str:
    """Return what a sigmoid score usually means."""
    return next((name for least, name in BANDS if value >= least), BANDS[-1][1])


def main() -> None:
    """Score, sort, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("documents", nargs="*", default=DOCUMENTS, help="texts to score (default: four examples)")
    endpoint, args = endpoint_from_args(parser)
    scores = score(endpoint, args.query, args.documents)
    print(f"{args.query}  ({endpoint.model} at {endpoint.url})")
    for value, text in sorted(zip(scores, args.documents, strict=True), reverse=True):
        meaning = "cosine" if endpoint.model in COSINE else band(value)
        print(f"  {value:.6f}  {meaning:10}  {text}")
    if endpoint.model in COSINE:
        print("Scores are cosines of an embedding model: compare them with each other, there are no bands.")
    else:
        print("Bands are a rule of thumb: high from 0.5, medium from 0.1, low from 0.01.")


if __name__ == "__main__":
    main()
