"""Caddy as a library: its config as a function of data, its admin API as a typed client. Knows no Pulumi."""
