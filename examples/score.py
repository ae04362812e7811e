"""Scores documents for a query with /score, and prints them best first: python examples/score.py --stack local

/score returns the scores in the order of the documents; /rerank sorts them. This script uses `requests` to show the
HTTP API; in the package `reranker` this is `Reranker.score`.
"""

from __future__ import annotations

import argparse
import sys

import requests
from connect import connect
from meaning import band, is_cosine

from reranker import Endpoint

TIMEOUT_S = 30
QUERY = "What is deep learning?"
DOCUMENTS = [
    "Deep learning is a subset of machine learning that uses neural networks with many layers.",
    "The weather is nice today.",
    "Deep learning enables computers to learn from large amounts of data.",
    "I like pizza.",
]


def score(endpoint: Endpoint, model: str, query: str, documents: list[str]) -> list[float]:
    """Return one score per document, in the order of the documents."""
    with endpoint.ca_file() as ca:
        try:
            answer = requests.post(
                f"{endpoint.url}/score",
                headers={"Authorization": f"Bearer {endpoint.api_key}"},
                json={"model": model, "text_1": query, "text_2": documents},
                verify=ca or True,
                timeout=TIMEOUT_S,
            )
        except requests.RequestException as error:
            sys.exit(f"cannot reach {endpoint.url}: {error}")
    if answer.status_code != 200:
        sys.exit(f"{endpoint.url}/score answered {answer.status_code}: {answer.text[:300]}")
    return [item["score"] for item in sorted(answer.json()["data"], key=lambda item: item["index"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("documents", nargs="*", default=DOCUMENTS, help="texts to score (default: four examples)")
    args, endpoint, model = connect(parser)
    scores = score(endpoint, model, args.query, args.documents)
    print(f"{args.query}  ({model} at {endpoint.url})")
    for value, text in sorted(zip(scores, args.documents, strict=True), reverse=True):
        print(f"  {value:.6f}  {'cosine' if is_cosine(model) else band(value):10}  {text}")
    if is_cosine(model):
        print("Scores are cosines of an embedding model: they have no bands; compare them only with each other.")
    else:
        print("The bands are estimates: high from 0.5, medium from 0.1, low from 0.01.")


if __name__ == "__main__":
    main()
