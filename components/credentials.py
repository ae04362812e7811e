"""Keys that the stack makes once and keeps as secrets. Used by the Reranker component."""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

KEY_BYTES = 32


class ApiKeyProvider(ResourceProvider):
    """Makes a random key; needs no API, and keeps the key for the life of the resource."""

    serialize_as_secret_always = True

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Return 32 random bytes as 64 hex digits."""
        key = secrets.token_hex(KEY_BYTES)
        return CreateResult(secrets.token_hex(4), {**props, "value": key})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Nothing changes a key but its replacement (`pulumi up --replace`)."""
        return DiffResult(changes=False)


class ApiKey(Resource, module="vast", name="ApiKey"):
    """An API key for the endpoint: `value`, 64 hex digits, secret in state."""

    value: pulumi.Output[str]

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        secret = pulumi.ResourceOptions(additional_secret_outputs=["value"])
        super().__init__(ApiKeyProvider(), name, {"value": None}, pulumi.ResourceOptions.merge(secret, opts))
