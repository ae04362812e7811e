"""`python -m reranker`: the same as the command `rerank`."""

from reranker.command import entry

entry()
