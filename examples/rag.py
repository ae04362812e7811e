"""Filters the context of a RAG prompt: retrieve by embeddings, rerank, cut: python examples/rag.py --stack local

Retrieval by embeddings is cheap, but also finds passages with only similar words. The reranker reads question and
passage together and gives those low scores. The script prints the prompt for a language model.
Needs requirements/examples.lock and the weights (`scripts/setup.sh all`); see minilm.py.
"""

from __future__ import annotations

import argparse
import sys

from meaning import min_relevant_score
from minilm import MiniLM

from reranker import Reranker, RerankerError
from reranker.arguments import endpoint_arguments, endpoint_from

QUESTION = "How does deep learning learn from data?"
PASSAGES = [
    "Deep learning models learn from data by adjusting the weights of many layers to lower the error.",
    "The deep sea is the lowest layer of the ocean, below two hundred metres.",
    "In deep learning, backpropagation carries the error back through the layers so that each can learn from data.",
    "Learning to play the piano takes practice and patience.",
    "Pizza dough has to rest before it is baked.",
    "The data centre is cooled with water from the river.",
    "Students learn better when they sleep enough.",
    "The museum opens at ten and closes at six.",
    "Gradient descent is how neural networks in deep learning learn from examples of data.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--retrieve", type=int, default=6, metavar="N", help="passages to retrieve (default: 6)")
    parser.add_argument("--min-score", type=float, help="minimum score of a passage (default: depends on the model)")
    endpoint_arguments(parser)
    args = parser.parse_args()

    model = MiniLM()
    cosines = model.embed(PASSAGES) @ model.embed([args.question])[0]
    retrieved = sorted(range(len(PASSAGES)), key=lambda index: -cosines[index])[: args.retrieve]
    candidates = [PASSAGES[index] for index in retrieved]
    try:
        with Reranker(endpoint_from(args).endpoint) as reranker:
            ranking = reranker.rerank(args.question, candidates, truncate_prompt_tokens=-1)
    except RerankerError as error:
        sys.exit(str(error))
    cut = min_relevant_score(ranking.model) if args.min_score is None else args.min_score

    print(
        f"retrieved {len(candidates)} of {len(PASSAGES)} by all-MiniLM-L6-v2, reranked by {ranking.model}, cut {cut:g}"
    )
    for result in ranking:
        verdict = "keep" if result.score >= cut else "drop"
        print(f"  {verdict}  {result.score:.4f}  (cosine {cosines[retrieved[result.index]]:.2f})  {result.text}")
    context = "\n".join(f"- {result.text}" for result in ranking if result.score >= cut) or "- no relevant passage"
    print(f"\nAnswer from these passages only:\n{context}\nQuestion: {args.question}")


if __name__ == "__main__":
    main()
