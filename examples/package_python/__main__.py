"""A reranker as a component of this program. `pulumi package add` writes a typed class; this needs none."""

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
