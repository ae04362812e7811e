"""The guard: a process of its own in front of vLLM, `python3 -m guard`, in the server's container.

Standard library and h11, which uvicorn, and so every image of vLLM, has. Packed by components.container_files.
"""
