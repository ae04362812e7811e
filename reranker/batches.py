"""Splits a long list into requests within the server's limits. Called by `client` and `upstream`.

The default limits are those of the guard: 1,000 documents and 2 MiB in one request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reranker.errors import InvalidInput, RerankerError, ServerError

Answer = TypeVar("Answer")
UNPAIRED = "contains an unpaired surrogate, which UTF-8 cannot encode"
TOO_MANY = re.compile(r"\d+ documents in one request")


@dataclass(frozen=True)
class Limits:
    """Limits of one request: entries of a list, and bytes of the body."""

    documents: int = 1000
    body_bytes: int = 2 << 20


def encode(value: object) -> bytes:
    """Return compact JSON in UTF-8: the server's limit counts bytes. Raises InvalidInput."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"a text {UNPAIRED}") from None


def encoded_sizes(name: str, texts: Sequence[str]) -> list[int]:
    """Return the size of each text as an entry of a JSON list, in bytes. Raises InvalidInput with the index."""
    sizes = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"{name}[{index}] is {type(text).__name__}, not a string")
        try:
            sizes.append(len(encode(text)) + 1)
        except InvalidInput:
            raise InvalidInput(f"{name}[{index}] {UNPAIRED}") from None
    return sizes


def split(name: str, sizes: Sequence[int], fixed_bytes: int, limits: Limits) -> list[range]:
    """Return consecutive ranges that cover all entries, each within the limits.

    `sizes` are the bytes of the entries, `fixed_bytes` those of a request without entries. Raises InvalidInput if one
    entry alone exceeds the limit.
    """
    parts: list[range] = []
    start, total = 0, fixed_bytes
    for index, size in enumerate(sizes):
        if (alone := fixed_bytes + size) > limits.body_bytes:
            raise InvalidInput(f"{name}[{index}] is too large: {alone} bytes by itself, of {limits.body_bytes} allowed")
        if index - start == limits.documents or total + size > limits.body_bytes:
            parts.append(range(start, index))
            start, total = index, fixed_bytes
        total += size
    return [*parts, range(start, len(sizes))] if sizes else []


def is_too_large(error: RerankerError) -> bool:
    """Whether the server refused a request because it has too many bytes or documents."""
    if not isinstance(error, ServerError):
        return False
    return error.status == 413 or (error.status == 400 and bool(TOO_MANY.search(error.message)))


def request_in_halves(
    send: Callable[[range], list[Answer]],
    part: range,
    failed: dict[int, RerankerError] | None = None,
    shortest: range | None = None,
) -> list[Answer]:
    """Send a part. If the server refuses it as too large, send its halves: the server's limits may be lower than ours.

    With `failed`, errors are stored there by index instead of raised, and a part refused with 400 is halved until only
    the invalid entries fail. Before that only `shortest` is sent: if it is refused too, the query is the cause, and
    its error is raised.
    """
    try:
        return send(part)
    except RerankerError as error:
        too_large = is_too_large(error)
        invalid = failed is not None and not too_large and isinstance(error, ServerError) and error.status == 400
        if len(part) < 2 or not (too_large or invalid):
            if failed is None:
                raise
            failed.update(dict.fromkeys(part, error))
            return []
    if invalid and shortest:
        send(shortest)
        shortest = None
    halves = part[: len(part) // 2], part[len(part) // 2 :]
    return [answer for half in halves for answer in request_in_halves(send, half, failed, shortest)]
