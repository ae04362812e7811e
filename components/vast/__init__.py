"""The Vast.ai marketplace as a library: search, rank, rent, watch, destroy. Knows nothing of Pulumi or rerankers."""
