"""vLLM's pooling routes in miniature: shapes, limits and errors as the real server gives them, scores by word overlap.

Served by `stub` (a process, behind the real guard and TLS) and by the `none` runtime (inside the emulator). A stand-in
for weights, not for vLLM's interface: statuses and bodies were recorded from vLLM 0.32.
"""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

VERSION = "0.32.0-stub"
MAX_MODEL_LEN = 512
TOKENS_PER_WORD = 1.3
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORE = ("/score", "/v1/score")
STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "does",
        "for",
        "from",
        "how",
        "i",
        "in",
        "is",
        "it",
        "my",
        "of",
        "on",
        "or",
        "that",
        "the",
        "to",
        "what",
        "you",
    ]
)


class Refused(Exception):
    """An error answer: status, message, type, parameter."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": status}
        super().__init__(message)


def respond(method: str, path: str, body: bytes, model: str, root: str) -> tuple[int, Any]:
    """Return status and JSON body (or text) for a request."""
    if path in ("/health", "/ping"):
        return 200, ""
    if path == "/version":
        return 200, {"version": VERSION}
    if path == "/load":
        return 200, {"server_load": 0}
    if path == "/metrics":
        return 200, "# HELP vllm:num_requests_running Number of requests.\nvllm:num_requests_running 0.0\n"
    if path == "/v1/models":
        return 200, {"object": "list", "data": [_model_card(model, root)]}
    if path not in RERANK + SCORE:
        return 404, {"detail": "Not Found"}
    if method != "POST":
        return 405, {"detail": "Method Not Allowed"}
    try:
        asked = _parse(body)
        if asked.get("model") not in (None, model):
            raise Refused(404, f"The model `{asked['model']}` does not exist.", "NotFoundError")
        return 200, _rerank(asked, model) if path in RERANK else _score(asked, model)
    except Refused as refused:
        return refused.status, {"error": refused.error}


def overlap(query: str, text: str) -> float:
    """Return a score in 0..1 that grows with the share of the query's words that the text has."""
    left, right = _words(query), _words(text)
    if not left or not right:
        return 0.01
    share = len(left & right) / math.sqrt(len(left) * len(right))
    return round(1 / (1 + math.exp(4 - 12 * share)), 6)


def _words(text: str) -> set[str]:
    return {word[:6] for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS}


def _parse(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError:
        raise Refused(400, "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body'}", "Bad Request") from None
    if not isinstance(asked, dict):
        raise Refused(400, "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body'}", "Bad Request")
    return asked


def _text(value: Any, name: str) -> str:
    if isinstance(value, dict):
        value = value.get("text")
    if not isinstance(value, str):
        raise Refused(
            400,
            f"1 validation error:\n  {{'type': 'string_type', 'loc': 'body.{name}'}}",
            "Bad Request",
            f"body.{name}",
        )
    return value


def _tokens(asked: dict[str, Any], query: str, text: str) -> int:
    count = int(TOKENS_PER_WORD * (len(query.split()) + len(text.split()))) + 4
    limit = asked.get("truncate_prompt_tokens")
    if limit is not None:
        return min(count, MAX_MODEL_LEN if limit == -1 else int(limit))
    if count > MAX_MODEL_LEN:
        message = (
            f"This model's maximum context length is {MAX_MODEL_LEN} tokens. However, your prompt contains at least "
            f"{MAX_MODEL_LEN + 1} input tokens. Please reduce the length of the input prompt."
        )
        raise Refused(400, message, param="input_tokens")
    return count


def _rerank(asked: dict[str, Any], model: str) -> dict[str, Any]:
    for name in ("query", "documents"):
        if name not in asked:
            message = f"1 validation error:\n  {{'type': 'missing', 'loc': 'body.{name}', 'msg': 'Field required'}}"
            raise Refused(400, message, "Bad Request", f"body.{name}")
    query, documents = _text(asked["query"], "query"), asked["documents"]
    if not isinstance(documents, list):
        raise Refused(400, "1 validation error:\n  {'type': 'list_type', 'loc': 'body.documents'}", "Bad Request")
    if not documents:
        raise Refused(400, "At least one text_pair element must be given")
    top_n = asked.get("top_n") or 0
    if top_n < 0:
        raise Refused(
            400,
            "1 validation error:\n  {'type': 'greater_than_equal', 'loc': 'body.top_n'}",
            "Bad Request",
            "body.top_n",
        )
    texts = [_text(one, "documents") for one in documents]
    tokens = sum(_tokens(asked, query, text) for text in texts)
    results = [
        {"index": n, "document": {"text": text, "multi_modal": None}, "relevance_score": overlap(query, text)}
        for n, text in enumerate(texts)
    ]
    results.sort(key=lambda one: -float(str(one["relevance_score"])))
    return {
        "id": f"score-{time.time_ns():016x}",
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[:top_n] if top_n else results,
    }


def _score(asked: dict[str, Any], model: str) -> dict[str, Any]:
    left, right = asked.get("text_1", asked.get("queries")), asked.get("text_2", asked.get("documents"))
    firsts = left if isinstance(left, list) else [left]
    seconds = right if isinstance(right, list) else [right]
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise Refused(400, "Input lengths must be either 1:1, 1:N or N:N")
    pairs = [(_text(one, "text_1"), _text(two, "text_2")) for one, two in zip(firsts, seconds, strict=True)]
    tokens = sum(_tokens(asked, *pair) for pair in pairs)
    return {
        "id": f"score-{time.time_ns():016x}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": n, "object": "score", "score": overlap(*pair)} for n, pair in enumerate(pairs)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
    }


def _model_card(model: str, root: str) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "vllm",
        "root": root,
        "parent": None,
        "max_model_len": MAX_MODEL_LEN,
        "permission": [],
    }
