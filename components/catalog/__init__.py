"""Data: images and models that are known to work, and the source of each fact. Read by components.vllm.catalog."""
