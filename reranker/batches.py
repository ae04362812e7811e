"""How many requests a long list takes: splits it by the server's limits, halves what is still too much. Pure.

Called by `client`. The limits are the guard's: at most 1,000 documents and 2 MiB in one request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reranker.errors import InvalidInput, RerankerError, ServerError

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


def is_too_large(error: RerankerError) -> bool:
    """Whether the server found a request too large: in bytes or in documents."""
    if not isinstance(error, ServerError):
        return False
    return error.status == 413 or (error.status == 400 and bool(TOO_MANY.search(error.message)))


def in_halves(
    ask: Callable[[range], list[Answer]],
    part: range,
    failed: dict[int, RerankerError] | None = None,
    shortest: range | None = None,
) -> list[Answer]:
    """Ask for a part; where the server finds it too large (its limits are lower than we know), for its halves.

    With `failed`, an error is put there for each entry that it concerns, and the others are answered: a part that is
    refused is halved down to the entries at fault. An entry of `shortest` is asked for first: where that is refused
    too, the request itself is at fault, and its error is raised.
    """
    try:
        return ask(part)
    except RerankerError as error:
        too_large = is_too_large(error)
        refused = failed is not None and not too_large and isinstance(error, ServerError) and error.status == 400
        if len(part) < 2 or not (too_large or refused):
            if failed is None:
                raise
            failed.update(dict.fromkeys(part, error))
            return []
    if refused and shortest:
        ask(shortest)
        shortest = None
    middle = len(part) // 2
    return [one for half in (part[:middle], part[middle:]) for one in in_halves(ask, half, failed, shortest)]
