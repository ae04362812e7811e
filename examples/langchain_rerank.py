"""Reranks LangChain documents with CohereRerank: python examples/langchain_rerank.py --stack local

The stack's CA is set in an httpx client for Cohere's client, so the rest of the process still trusts the public CAs.
Needs requirements/examples.lock.
"""

from __future__ import annotations

import argparse

import cohere
import httpx
from connect import connect
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

QUERY = "What is deep learning?"
DOCUMENTS = [
    Document("I like pizza.", metadata={"source": "menu"}),
    Document("Deep learning is machine learning with many layers.", metadata={"source": "book"}),
    Document("The weather is nice today.", metadata={"source": "radio"}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    _, endpoint, model = connect(parser)
    http = httpx.Client(verify=endpoint.ssl_context() or True, timeout=30)
    client = cohere.ClientV2(endpoint.api_key, base_url=endpoint.url, httpx_client=http)
    compressor = CohereRerank(client=client, model=model, top_n=2)
    for document in compressor.compress_documents(DOCUMENTS, QUERY):
        print(f"  {document.metadata['relevance_score']:.4f}  {document.metadata['source']:6}  {document.page_content}")


if __name__ == "__main__":
    main()
