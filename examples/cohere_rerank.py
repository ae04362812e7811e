"""Reranks with Cohere's own client: python examples/cohere_rerank.py --stack local   (pip install cohere)

ClientV2 posts to /v2/rerank, which vLLM serves; the stack's CA goes in with an httpx client. One difference to Cohere's
service: vLLM sends the documents back, and ClientV2 keeps them as plain dicts, so it is `document["text"]`, not
`document.text`. (The older `cohere.Client` posts to /v1/rerank and works too; there it is `document.text`.)
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
    """Rerank and print, best first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--query", default=QUERY)
    parser.add_argument("--top-n", type=int, help="how many documents to get back (default: all)")
    parser.add_argument("documents", nargs="*", default=DOCUMENTS, help="texts to rerank (default: four examples)")
    args, endpoint, model = connect(parser)
    http = httpx.Client(verify=endpoint.ssl_context() or True, timeout=TIMEOUT_S)
    client = cohere.ClientV2(endpoint.api_key, base_url=endpoint.url, httpx_client=http)
    try:
        # the client sends null for a top_n that is not given, which vLLM without the guard refuses
        top_n = args.top_n or len(args.documents)
        answer = client.rerank(model=model, query=args.query, documents=args.documents, top_n=top_n)
    except ApiError as error:
        sys.exit(f"{endpoint.url}/v2/rerank answered {error.status_code}: {error.body}")
    except httpx.HTTPError as error:
        sys.exit(f"cannot reach {endpoint.url}: {error}")
    print(f"{args.query}  ({model} at {endpoint.url})")
    for one in answer.results:
        print(f"  {one.relevance_score:.6f}  [{one.index}]  {one.document['text']}")


if __name__ == "__main__":
    main()
