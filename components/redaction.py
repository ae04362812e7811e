"""Removes secrets from text that people read: log tails, API messages, error text."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"
# Shapes that are secrets whoever made them: bearer headers, hub tokens, PEM keys, KEY=value of telling names.
_SHAPES = (
    (re.compile(r"(?i)(bearer\s+)[^\s\"',;]+"), r"\1" + MASK),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}\b"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), MASK),
    (
        re.compile(
            r"(?i)\b([A-Z0-9_]*(?:api_?key|token|secret|password)[A-Z0-9_]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{6,}"
        ),
        r"\1" + MASK,
    ),
)
_LEAST = 6  # shorter values ("1", "true") are not secrets and would blank out ordinary words


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without any of `secrets` (longest first) and without what looks like a credential."""
    for secret in sorted({value for value in secrets if len(value) >= _LEAST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def tail(text: str, *, lines: int = 20, chars: int = 2000) -> str:
    """Return the last lines of a log, bounded both ways."""
    return "\n".join(text.strip().splitlines()[-lines:])[-chars:]
