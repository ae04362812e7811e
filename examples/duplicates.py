"""Finds texts that say the same: python examples/duplicates.py --stack local

Scores each pair once, groups what reaches the cut. n texts are n(n-1)/2 pairs: 100 texts are 4,950, which the client
sends in five requests. For more, let an embedding index propose the pairs.
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
# Said of sigmoids and cosines alike: pairs that mean the same are far above pairs that only share a subject.
ALIKE_FROM = 0.75


def groups(count: int, alike: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return indexes that are alike, directly or over others, in groups of two and more."""
    group_of = {index: [index] for index in range(count)}
    for one, other in alike:
        if group_of[one] is not group_of[other]:
            joined = sorted(group_of[one] + group_of[other])
            group_of |= dict.fromkeys(joined, joined)
    distinct = {id(group): group for group in group_of.values()}
    return [group for group in distinct.values() if len(group) > 1]


def main() -> None:
    """Score all pairs, print the groups."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", nargs="*", default=TEXTS, help="texts to compare (default: six questions)")
    parser.add_argument("--min-score", type=float, default=ALIKE_FROM, help=f"alike from here on ({ALIKE_FROM})")
    endpoint_arguments(parser)
    args = parser.parse_args()
    pairs = list(combinations(range(len(args.texts)), 2))
    try:
        with Reranker(endpoint_from(args).endpoint) as reranker:
            scores = reranker.score(
                [args.texts[one] for one, _ in pairs],
                [args.texts[other] for _, other in pairs],
                truncate_prompt_tokens=-1,
            )
    except RerankerError as error:
        sys.exit(str(error))
    score_of = dict(zip(pairs, scores, strict=True))
    found = groups(len(args.texts), [pair for pair in pairs if score_of[pair] >= args.min_score])
    print(
        f"{len(found)} groups of duplicates among {len(args.texts)} texts, {len(pairs)} pairs, cut {args.min_score:g}"
    )
    for number, group in enumerate(found, 1):
        print(f"  group {number}")
        for index in group:
            best = max(score_of[min(index, other), max(index, other)] for other in group if other != index)
            print(f"    {best:.4f}  [{index}]  {args.texts[index]}")


if __name__ == "__main__":
    main()
