"""An emulator of Vast.ai: the same API paths, JSON, errors and timing; containers are local processes."""
