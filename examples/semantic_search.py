"""Semantic search over a small corpus: python examples/semantic_search.py --stack local "how do I get my money back"

Each document is scored for the query, so the search needs no index and no common words. This works for a few thousand
documents; for more, retrieve first, see rag.py. --file reads your own corpus as JSON lines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reranker import Reranker, RerankerError
from reranker.arguments import endpoint_arguments, endpoint_from
from reranker.documents import read_lines

QUERY = "How do I get a refund for an order?"
CORPUS = [
    "To request a refund, open your orders, choose the order and press 'Return'. Money is back within five days.",
    "Our offices are closed on public holidays.",
    "You can change the delivery address until the parcel has left the warehouse.",
    "Gift cards cannot be exchanged for cash.",
    "If a product is faulty, we refund the order in full, shipping included.",
    "Passwords are reset from the sign-in page.",
    "We ship to all countries of the European Union.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("query", nargs="?", default=QUERY)
    parser.add_argument("--top-n", type=int, default=3, help="number of results (default: 3)")
    parser.add_argument("--file", type=Path, help='your own corpus: "a string" or {"text": ...} on each line')
    endpoint_arguments(parser)
    args = parser.parse_args()
    try:
        corpus = CORPUS
        if args.file:
            corpus = [document.text for document in read_lines(args.file.read_bytes().splitlines(), str(args.file))]
        with Reranker(endpoint_from(args).endpoint) as reranker:
            ranking = reranker.rerank(args.query, corpus, args.top_n, truncate_prompt_tokens=-1)
    except (RerankerError, OSError) as error:
        sys.exit(str(error))
    print(f"{args.query}  ({ranking.model}, the best of {len(corpus)})")
    for result in ranking:
        print(f"  {result.score:.4f}  {result.text}")


if __name__ == "__main__":
    main()
