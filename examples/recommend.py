"""Recommends items similar to liked items: python examples/recommend.py --stack local --liked "a novel about the sea"

Each liked item is a query, and the other items of the catalogue are the documents. The score of an item is its best
score over all queries, so that one strong match beats several weak matches.
"""

from __future__ import annotations

import argparse
import sys

from reranker import Reranker, RerankerError
from reranker.arguments import endpoint_arguments, endpoint_from

CATALOGUE = [
    "A documentary about deep sea fish and coral reefs",
    "A cookbook of Italian pasta and pizza",
    "A history of deep sea diving and submarines",
    "A guide to neural networks for beginners",
    "A travel guide to the mountains of Norway",
    "A cookbook of quick vegetarian pasta dishes",
]
LIKED = ["A novel about deep sea diving", "A cookbook of pasta recipes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("catalogue", nargs="*", default=CATALOGUE, help="descriptions (default: six titles)")
    parser.add_argument("--liked", action="append", help="a liked item; may be repeated (default: two titles)")
    parser.add_argument("--top-n", type=int, default=4, help="number of recommendations (default: 4)")
    endpoint_arguments(parser)
    args = parser.parse_args()
    liked = args.liked or LIKED
    items = [item for item in args.catalogue if item not in liked]
    best: dict[int, tuple[float, str]] = {}
    try:
        with Reranker(endpoint_from(args).endpoint) as reranker:
            for query in liked:
                for result in reranker.rerank(query, items, truncate_prompt_tokens=-1):
                    best[result.index] = max(best.get(result.index, (-1.0, "")), (result.score, query))
    except RerankerError as error:
        sys.exit(str(error))
    print(f"the best of {len(items)} items for {len(liked)} liked items:")
    ranked = sorted(best.items(), key=lambda item: item[1], reverse=True)
    for index, (score, query) in ranked[: args.top_n]:
        print(f"  {score:.4f}  {items[index]}  (you liked: {query})")


if __name__ == "__main__":
    main()
