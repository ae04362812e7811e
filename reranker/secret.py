"""Checks secrets from environment, config and files. Used by the stack and by the clients."""

from __future__ import annotations

import re

from reranker.errors import InvalidInput

RULE = "printable ASCII without spaces, as HTTP headers require"


def read_secret(text: str, name: str) -> str:
    """Return a secret without surrounding whitespace: files and secret stores may add a newline.

    Raises InvalidInput with the name and the rule, never the value.
    """
    secret = text.strip()
    if not re.fullmatch(r"[\x21-\x7e]*", secret):
        raise InvalidInput(f"{name} must be {RULE}")
    return secret
