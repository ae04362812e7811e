"""Reranks LlamaIndex nodes with its CohereRerank: python examples/llamaindex_rerank.py --stack local

CohereRerank makes its own Cohere client and takes none, so the CA reaches it by SSL_CERT_FILE, which httpx reads at the
moment a client is made. It is set for that moment only: left set, every other httpx client of the process (that of the
language model, say) would trust this CA and no public one. Needs requirements/examples.lock.
"""

from __future__ import annotations

import argparse
import os

from connect import connect
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank

from reranker import Endpoint

QUERY = "What is deep learning?"
TEXTS = ["I like pizza.", "Deep learning is machine learning with many layers.", "The weather is nice today."]


def cohere_rerank(endpoint: Endpoint, model: str, top_n: int) -> CohereRerank:
    """Return LlamaIndex's CohereRerank for an endpoint, trusting its CA."""
    before = os.environ.get("SSL_CERT_FILE")
    with endpoint.ca_file() as ca:
        try:
            if ca:
                os.environ["SSL_CERT_FILE"] = ca
            return CohereRerank(api_key=endpoint.api_key, base_url=endpoint.url, model=model, top_n=top_n)
        finally:
            if before is None:
                os.environ.pop("SSL_CERT_FILE", None)
            else:
                os.environ["SSL_CERT_FILE"] = before


def main() -> None:
    """Postprocess nodes to the best two, and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    _, endpoint, model = connect(parser)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    reranked = cohere_rerank(endpoint, model, 2).postprocess_nodes(nodes, QueryBundle(QUERY))
    for one in reranked:
        print(f"  {one.score or 0:.4f}  {one.node.get_content()}")


if __name__ == "__main__":
    main()
