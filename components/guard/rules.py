"""Validates scoring requests: routes, fields, number of pairs, length of texts. Pure.

Used by `gate`, and for large bodies by `judging` in a second process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCORED = ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score")
ALLOW = (*SCORED, "/v1/models")
KEYS, CERTIFICATE, ROUTES, METRICS = "/guard/keys", "/guard/certificate", "/guard/routes", "/metrics"
MANAGED = (KEYS, CERTIFICATE, ROUTES, METRICS)
# vLLM's field names for the two sides of a pair
QUERIES = ("query", "text_1", "queries", "data_1")
DOCUMENTS = ("documents", "text_2", "items", "data_2")
# fields for the chat template
TEMPLATE_FIELDS = ("instruction", "chat_template_kwargs")
# docs/security.md explains why padding, priority, cache_salt, request_id and mm_processor_kwargs are not accepted
COMMON = frozenset(
    ("model", "user", "truncate_prompt_tokens", "truncation_side", "use_activation", "max_tokens_per_query")
) | {"max_tokens_per_doc", "return_documents", *TEMPLATE_FIELDS}
RERANK_FIELDS = COMMON | {"query", "documents", "top_n"}
SCORE_FIELDS = COMMON | {"text_1", "text_2", "queries", "documents", "items", "data_1", "data_2"}
PAIR_TOKENS = 4  # special tokens of a pair without a template


class Refusal(Exception):
    """An error answer of the guard: status, message, and seconds for Retry-After (0: no header)."""

    def __init__(self, status: int, message: str, retry_after_s: int = 0) -> None:
        super().__init__(status, message, retry_after_s)
        self.status, self.message, self.retry_after_s = status, message, retry_after_s


@dataclass(frozen=True)
class Rules:
    """The limits of this server.

    `context`: the model's context in tokens. `template`: the most tokens of its template. `truncate`: the default of
    truncate_prompt_tokens. `fields`: the request fields of the running vLLM.
    """

    max_bytes: int = 2 << 20
    max_documents: int = 1000
    models: tuple[str, ...] = ()
    context: int = 0
    template: int = 0
    truncate: int | None = None
    fields: frozenset[str] = frozenset()


@dataclass(frozen=True)
class JudgedBody:
    """A validated body for vLLM, with its number of pairs and the upper limit of their tokens."""

    body: bytes
    pairs: int = 0
    tokens: int = 0


def judge(path: str, body: bytes, rules: Rules) -> JudgedBody:
    """Validate a scoring request and return the body for vLLM. Raises Refusal."""
    try:
        request = json.loads(body)
        if isinstance(request, dict):
            # Cohere's clients send null for unset fields; vLLM 0.32 rejects it for top_n and max_tokens_per_doc
            request = {name: value for name, value in request.items() if value is not None}
            if rules.truncate is not None and not rules.template:
                request.setdefault("truncate_prompt_tokens", rules.truncate)
        clean = _to_json(request)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON in UTF-8") from None
    if not isinstance(request, dict):
        return JudgedBody(clean)  # vLLM answers with the error
    accepted = RERANK_FIELDS if path.endswith("/rerank") else SCORE_FIELDS
    if unknown := sorted(request.keys() - accepted):
        raise Refusal(400, f"{unknown[0][:80]}: is not a field of {path}; accepted: {', '.join(sorted(accepted))}")
    queries, documents = (_side(request, names) for names in (QUERIES, DOCUMENTS))
    pairs = max(_count(queries), _count(documents))
    if pairs > rules.max_documents:
        raise Refusal(400, f"{pairs} documents in one request; at most {rules.max_documents} are allowed")
    if rules.models and request.get("model") and request["model"] not in rules.models:
        model = str(request["model"])[:200]
        raise Refusal(404, f"The model `{model}` does not exist; served: {', '.join(rules.models)}")
    for name in (name for name in TEMPLATE_FIELDS if name in request):  # vLLM would silently ignore them
        if not rules.template:
            raise Refusal(400, f"{name}: this model has no prompt template that uses it")
        if name not in rules.fields:
            raise Refusal(400, f"{name}: this version of vLLM does not support it for /rerank and /score")
    if rules.template:
        before = dict(request)
        _limit_documents(request, rules)
        clean = clean if request == before else _to_json(request)
    return JudgedBody(clean, pairs, _count_tokens(queries, documents, pairs, rules))


def _to_json(value: Any) -> bytes:
    # Python's parser accepts NaN and Infinity; JSON has none
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _side(request: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    present = [name for name in names if name in request]
    if len(present) > 1:
        raise Refusal(400, f"{' and '.join(present)}: have the same meaning; send only one of them")
    return request[present[0]] if present else None


def _count(value: Any) -> int:
    """Count texts, including the content parts of an object."""
    if isinstance(value, list):
        return sum(map(_count, value))
    parts = value.get("content") if isinstance(value, dict) else None
    return max(1, len(parts)) if isinstance(parts, list) else 1


def _count_tokens(queries: Any, documents: Any, pairs: int, rules: Rules) -> int:
    """Return an upper limit of the pairs' tokens: a text has at most one token per byte, a prompt fits the context."""
    prompt_limit = rules.context or rules.max_bytes
    overhead = longest(queries) + rules.template + PAIR_TOKENS
    texts = documents if isinstance(documents, list) else [documents] * pairs
    return sum(min(prompt_limit, overhead + longest(text)) for text in texts)


def _limit_documents(request: dict[str, Any], rules: Rules) -> None:
    """Replace truncate_prompt_tokens by max_tokens_per_doc: a cut prompt loses the template's ending and gets a wrong
    score. The query counts one token per byte, its maximum.
    """
    limit = request.pop("truncate_prompt_tokens", rules.truncate)
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or not (limit == -1 or 0 < limit <= rules.context):
        raise Refusal(400, f"truncate_prompt_tokens: accepted: -1, or 1 to {rules.context} (this model's context)")
    other_tokens = sum(longest(request.get(name)) for name in (*QUERIES, *TEMPLATE_FIELDS))
    room = (rules.context if limit == -1 else limit) - rules.template - other_tokens
    if all(longest(request.get(name)) <= room for name in DOCUMENTS):
        return
    if room > 0 and "max_tokens_per_doc" in rules.fields:
        requested = request.get("max_tokens_per_doc")
        is_lower = isinstance(requested, int) and 0 < requested < room
        request["max_tokens_per_doc"] = requested if is_lower else room
    elif limit != -1:
        raise Refusal(400, "truncate_prompt_tokens: would cut this model's prompt; send a shorter query or documents")


def longest(value: Any) -> int:
    """Return the size in bytes of a text, of the longest text of a list, or of an object."""
    if isinstance(value, str):  # the usual case
        return len(value.encode())
    texts = value if isinstance(value, list) else [value] if value else []
    return max((len((text if isinstance(text, str) else json.dumps(text)).encode()) for text in texts), default=0)
