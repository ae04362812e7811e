"""How many requests a long list takes: splits it by the server's limits, halves what is still too much. Pure.

Called by `client`. The limits are the guard's: at most 1,000 documents and 2 MiB in one request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reranker.errors import InvalidInput, ServerError

Answer = TypeVar("Answer")
TOO_MANY = re.compile(r"\d+ documents in one request")


@dataclass(frozen=True)
class Limits:
    """What one request may hold: entries of a list, and bytes of the body."""

    documents: int = 1000
    body_bytes: int = 2 << 20


def encode(value: object) -> bytes:
    """Return JSON in UTF-8, as short as it gets: the server's limit counts bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def encoded_sizes(name: str, texts: Sequence[str]) -> list[int]:
    """Return how many bytes each text takes in a list. Raises InvalidInput, with the index, for what is no text."""
    sizes = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"{name}[{index}] is {type(text).__name__}, not a string")
        try:
            sizes.append(len(encode(text)) + 1)
        except UnicodeEncodeError:
            raise InvalidInput(f"{name}[{index}] has half of a surrogate pair in it, which UTF-8 cannot say") from None
    return sizes


def split(name: str, sizes: Sequence[int], fixed_bytes: int, limits: Limits) -> list[range]:
    """Return consecutive ranges that cover all entries, each within the limits.

    `sizes` are bytes of the entries, `fixed_bytes` those of a request without any. Raises InvalidInput for an entry
    that is too large by itself.
    """
    parts: list[range] = []
    start, held = 0, fixed_bytes
    for index, size in enumerate(sizes):
        if fixed_bytes + size > limits.body_bytes:
            alone = fixed_bytes + size
            raise InvalidInput(f"{name}[{index}] is too large: {alone} bytes by itself, of {limits.body_bytes} allowed")
        if index - start == limits.documents or held + size > limits.body_bytes:
            parts.append(range(start, index))
            start, held = index, fixed_bytes
        held += size
    return [*parts, range(start, len(sizes))] if sizes else []


def in_halves(ask: Callable[[range], list[Answer]], part: range) -> list[Answer]:
    """Ask for a part; where the server finds it too large (its limits are lower than we know), for its halves."""
    try:
        return ask(part)
    except ServerError as error:
        too_large = error.status == 413 or (error.status == 400 and TOO_MANY.search(error.message))
        if not too_large or len(part) < 2:
            raise
    middle = len(part) // 2
    return in_halves(ask, part[:middle]) + in_halves(ask, part[middle:])
