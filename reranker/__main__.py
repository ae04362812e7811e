"""`python -m reranker`: the command `rerank`."""

from reranker.command import entry

entry()
