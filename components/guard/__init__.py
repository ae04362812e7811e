"""The guard: a separate process in front of vLLM, `python3 -m guard`, in the server's container.

Needs only the standard library and httptools, which vLLM depends on. Packed by components.container_files.
"""
