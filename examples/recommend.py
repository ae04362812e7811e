"""Recommends items by what someone liked: python examples/recommend.py --stack local --liked "a novel about the sea"

Each liked item is a query, each other item of the catalogue a document; an item counts by its best score over all
likes, so that one strong match beats several weak ones. Items that were liked already are left out.
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
    """Rank the catalogue by every like, keep each item's best score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("catalogue", nargs="*", default=CATALOGUE, help="descriptions (default: six titles)")
    parser.add_argument("--liked", action="append", help="what was liked; may be repeated (default: two titles)")
    parser.add_argument("--top-n", type=int, default=4, help="how many to recommend (default: 4)")
    endpoint_arguments(parser)
    args = parser.parse_args()
    liked = args.liked or LIKED
    items = [item for item in args.catalogue if item not in liked]
    best: dict[int, tuple[float, str]] = {}
    try:
        with Reranker(endpoint_from(args).endpoint) as reranker:
            for like in liked:
                for one in reranker.rerank(like, items, truncate_prompt_tokens=-1):
                    best[one.index] = max(best.get(one.index, (-1.0, "")), (one.score, like))
    except RerankerError as error:
        sys.exit(str(error))
    print(f"because of {len(liked)} likes, the best of {len(items)}:")
    ranked = sorted(best.items(), key=lambda one: one[1], reverse=True)
    for index, (score, like) in ranked[: args.top_n]:
        print(f"  {score:.4f}  {items[index]}  (you liked: {like})")


if __name__ == "__main__":
    main()
