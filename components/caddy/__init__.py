"""Caddy as a library: pure functions that build its config, and a typed client of its admin API. No Pulumi here."""
