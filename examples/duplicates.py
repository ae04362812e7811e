"""Finds duplicate texts: python examples/duplicates.py --stack local

Scores each pair once, and groups the pairs from a minimum score. n texts have n(n-1)/2 pairs: 100 texts have 4,950,
which the client sends in five requests. For more texts, use an embedding index to select pairs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations

from reranker import Reranker, RerankerError
from reranker.arguments import endpoint_arguments, endpoint_from

TEXTS = [
    "How do I reset my password?",
    "Where is my parcel now?",
    "How can I reset my account password?",
    "Can I pay with a credit card?",
    "Where is my parcel right now?",
    "Do you ship to Norway?",
]
MIN_SCORE = 0.75  # for sigmoids and cosines: texts that only share a subject score much less


def find_groups(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the groups of two or more indexes that are connected by pairs."""
    groups = {index: [index] for index in range(count)}
    for first, second in pairs:
        if groups[first] is not groups[second]:
            merged = sorted(groups[first] + groups[second])
            groups |= dict.fromkeys(merged, merged)
    distinct = {id(group): group for group in groups.values()}
    return [group for group in distinct.values() if len(group) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", nargs="*", default=TEXTS, help="texts to compare (default: six questions)")
    parser.add_argument(
        "--min-score", type=float, default=MIN_SCORE, help=f"score of duplicates (default: {MIN_SCORE})"
    )
    endpoint_arguments(parser)
    args = parser.parse_args()
    pairs = list(combinations(range(len(args.texts)), 2))
    try:
        with Reranker(endpoint_from(args).endpoint) as reranker:
            scores = reranker.score(
                [args.texts[first] for first, _ in pairs],
                [args.texts[second] for _, second in pairs],
                truncate_prompt_tokens=-1,
            )
    except RerankerError as error:
        sys.exit(str(error))
    pair_scores = dict(zip(pairs, scores, strict=True))
    groups = find_groups(len(args.texts), [pair for pair in pairs if pair_scores[pair] >= args.min_score])
    print(
        f"{len(groups)} groups of duplicates among {len(args.texts)} texts, {len(pairs)} pairs, from {args.min_score:g}"
    )
    for number, group in enumerate(groups, 1):
        print(f"  group {number}")
        for index in group:
            best = max(pair_scores[min(index, other), max(index, other)] for other in group if other != index)
            print(f"    {best:.4f}  [{index}]  {args.texts[index]}")


if __name__ == "__main__":
    main()
