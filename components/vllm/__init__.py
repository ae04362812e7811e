"""Serving rerankers with vLLM, as a library: launch plans, a client, and checks. No Pulumi here."""
