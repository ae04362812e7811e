"""Benchmarks of this project against its budgets; run by `make bench`."""
