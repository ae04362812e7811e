"""A Vast.ai on this machine: the API's paths, shapes, errors and timing, over containers that are local processes."""
