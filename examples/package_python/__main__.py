"""A reranker as a component of this program. `pulumi package add` writes a typed class; this needs none."""

import pulumi

OUTPUTS = ("url", "apiKey", "caCertificate")
reranker = pulumi.ComponentResource(
    "vast-reranker:index:Reranker",
    "search",
    {"model": "sentence-transformers/all-MiniLM-L6-v2", **dict.fromkeys(OUTPUTS)},
    remote=True,
)
pulumi.export("url", reranker.url)  # type: ignore[attr-defined]
