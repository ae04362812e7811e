"""Reranks with Cohere's client: python examples/cohere_rerank.py --stack local   (pip install cohere)

ClientV2 posts to /v2/rerank, which vLLM serves. An httpx client sets the stack's CA. vLLM returns the documents, and
ClientV2 keeps them as dicts: use `document["text"]`. The older `cohere.Client` (/v1/rerank) has `document.text`.
"""

from __future__ import annotations

import argparse
import sys

import cohere
import httpx
from cohere.core.api_error import ApiError
from connect import connect

TIMEOUT_S = 30
QUERY = "What is deep learning?"
DOCUMENTS = [
    "I like pizza.",
    "Deep learning enables computers to learn from large amounts of data.",
    "The weather is nice today.",
    "Deep learning is a subset of machine learning that uses neural networks with many layers.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("--top-n", type=int, help="number of documents to return (default: all)")
    parser.add_argument("documents", nargs="*", default=DOCUMENTS, help="texts to rerank (default: four examples)")
    args, endpoint, model = connect(parser)
    http = httpx.Client(verify=endpoint.ssl_context() or True, timeout=TIMEOUT_S)
    client = cohere.ClientV2(endpoint.api_key, base_url=endpoint.url, httpx_client=http)
    try:
        # without top_n the client sends null, which vLLM without the guard refuses
        top_n = args.top_n or len(args.documents)
        answer = client.rerank(model=model, query=args.query, documents=args.documents, top_n=top_n)
    except ApiError as error:
        sys.exit(f"{endpoint.url}/v2/rerank answered {error.status_code}: {error.body}")
    except httpx.HTTPError as error:
        sys.exit(f"cannot reach {endpoint.url}: {error}")
    print(f"{args.query}  ({model} at {endpoint.url})")
    for result in answer.results:
        print(f"  {result.relevance_score:.6f}  [{result.index}]  {result.document['text']}")


if __name__ == "__main__":
    main()
