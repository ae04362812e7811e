"""Reranks LlamaIndex nodes with CohereRerank: python examples/llamaindex_rerank.py --stack local

CohereRerank creates its own Cohere client; httpx reads the CA from SSL_CERT_FILE at that moment. The variable is set
only then: otherwise all other httpx clients of the process, such as that of the language model, would trust only this
CA. Needs requirements/examples.lock.
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
    """Return a CohereRerank that trusts the endpoint's CA."""
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    _, endpoint, model = connect(parser)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    for node in cohere_rerank(endpoint, model, 2).postprocess_nodes(nodes, QueryBundle(QUERY)):
        print(f"  {node.score or 0:.4f}  {node.node.get_content()}")


if __name__ == "__main__":
    main()
