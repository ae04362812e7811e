"""Shared code of the dynamic providers' process: progress, concurrency, errors, watch on the engine, session."""
