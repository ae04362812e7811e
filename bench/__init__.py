"""Measuring the project against its budgets; run by `make bench`."""
