"""Reranks LangChain documents with its CohereRerank: python examples/langchain_rerank.py --stack local

CohereRerank takes a Cohere client, and that an httpx client, which is where the stack's CA goes: nothing else in the
process changes. Needs requirements/examples.lock.
"""

from __future__ import annotations

import argparse
import sys

import cohere
import httpx
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

from reranker import Reranker, RerankerError
from reranker.command import endpoint_arguments, endpoint_from

QUERY = "What is deep learning?"
DOCUMENTS = [
    Document("I like pizza.", metadata={"source": "menu"}),
    Document("Deep learning is machine learning with many layers.", metadata={"source": "book"}),
    Document("The weather is nice today.", metadata={"source": "radio"}),
]


def main() -> None:
    """Compress documents to the best two, and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    endpoint_arguments(parser)
    args = parser.parse_args()
    try:
        endpoint = endpoint_from(args).endpoint
        model = endpoint.model or Reranker(endpoint).models()[0].id
    except RerankerError as error:
        sys.exit(str(error))
    http = httpx.Client(verify=endpoint.ssl_context() or True, timeout=30)
    client = cohere.ClientV2(endpoint.api_key, base_url=endpoint.url, httpx_client=http)
    compressor = CohereRerank(client=client, model=model, top_n=2)
    for one in compressor.compress_documents(DOCUMENTS, QUERY):
        print(f"  {one.metadata['relevance_score']:.4f}  {one.metadata['source']:6}  {one.page_content}")


if __name__ == "__main__":
    main()
