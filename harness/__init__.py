"""Shared code of tests, benchmarks and chaos runs: a stack of this project on the real engine."""
