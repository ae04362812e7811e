"""A Pulumi program with a reranker as a component. It does not need the class that `pulumi package add` generates."""

import pulumi

OUTPUTS = {"url": "url", "api_key": "apiKey", "ca_certificate": "caCertificate"}
reranker = pulumi.ComponentResource(
    "vast-reranker:index:Reranker",
    "search",
    {"model": "sentence-transformers/all-MiniLM-L6-v2", **dict.fromkeys(OUTPUTS.values())},
    remote=True,
)
for name, output in OUTPUTS.items():
    pulumi.export(name, getattr(reranker, output))
