"""Serving rerankers with vLLM, as a library: what to launch, how to ask it, how to check it. Knows no Pulumi."""
