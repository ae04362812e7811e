"""An emulator of Vast.ai: its API with the same paths, JSON, errors and timing; containers are local processes."""
