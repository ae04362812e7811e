"""What a request may ask: routes, fields, how many pairs, how much text. Pure, so that a process beside can judge.

Used by `gate`, and by `judging` in another process for large bodies.
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
# the two sides of a pair, by each name that vLLM has for them
QUERIES = ("query", "text_1", "queries", "data_1")
DOCUMENTS = ("documents", "text_2", "items", "data_2")
# what a request hands to a chat template
TO_TEMPLATE = ("instruction", "chat_template_kwargs")
# padding, priority, cache_salt, request_id and mm_processor_kwargs are not among them: see docs/security.md
COMMON = frozenset(
    ("model", "user", "truncate_prompt_tokens", "truncation_side", "use_activation", "max_tokens_per_query")
) | {"max_tokens_per_doc", "return_documents", *TO_TEMPLATE}
RERANK_FIELDS = COMMON | {"query", "documents", "top_n"}
SCORE_FIELDS = COMMON | {"text_1", "text_2", "queries", "documents", "items", "data_1", "data_2"}
# what a model adds around a pair without a template
PAIR_TOKENS = 4


class Refusal(Exception):
    """An answer that is given instead of vLLM's: status, message, and after how many seconds to come again."""

    def __init__(self, status: int, message: str, retry_after_s: int = 0) -> None:
        super().__init__(status, message, retry_after_s)
        self.status, self.message, self.retry_after_s = status, message, retry_after_s


@dataclass(frozen=True)
class Rules:
    """What this server takes.

    `context`: tokens that the model reads; `template`: those that its template takes at most; `truncate`: put in where
    a request does not say; `fields`: what requests of the vLLM that runs here have.
    """

    max_bytes: int = 2 << 20
    max_documents: int = 1000
    models: tuple[str, ...] = ()
    context: int = 0
    template: int = 0
    truncate: int | None = None
    fields: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Judged:
    """A body as vLLM is to get it, its pairs, and the tokens that they have at most."""

    body: bytes
    pairs: int = 0
    tokens: int = 0


def judge(path: str, body: bytes, rules: Rules) -> Judged:
    """Return a scoring request as vLLM is to get it. Raises Refusal."""
    try:
        asked = json.loads(body)
        # NaN and Infinity are Python's, not JSON's
        clean = json.dumps(asked, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON in UTF-8") from None
    if not isinstance(asked, dict):
        return Judged(clean)  # vLLM says what is wrong with it
    # Cohere's clients send null for what is not given, which vLLM 0.32 refuses for top_n and max_tokens_per_doc
    given = {name: value for name, value in asked.items() if value is not None}
    known = RERANK_FIELDS if path.endswith("/rerank") else SCORE_FIELDS
    if unknown := sorted(given.keys() - known):
        raise Refusal(400, f"{unknown[0][:80]}: is no field of {path} here; accepted: {', '.join(sorted(known))}")
    queries, documents = (_side(given, names) for names in (QUERIES, DOCUMENTS))
    pairs = max(_count(queries), _count(documents))
    if pairs > rules.max_documents:
        raise Refusal(400, f"{pairs} documents in one request; at most {rules.max_documents} are taken")
    if rules.models and given.get("model") and given["model"] not in rules.models:
        model = str(given["model"])[:200]
        raise Refusal(404, f"The model `{model}` does not exist; served: {', '.join(rules.models)}")
    _judge_template_fields(given, rules)
    if rules.template:
        _cut_documents(given, rules)
    elif rules.truncate is not None:
        given.setdefault("truncate_prompt_tokens", rules.truncate)
    if given != asked:
        clean = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    return Judged(clean, pairs, _tokens(queries, documents, pairs, rules))


def _side(given: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    found = [name for name in names if name in given]
    if len(found) > 1:
        raise Refusal(400, f"{' and '.join(found)}: are names for the same thing; give one")
    return given[found[0]] if found else None


def _count(value: Any) -> int:
    """Count texts, those in the parts of an object too."""
    if isinstance(value, list):
        return sum(map(_count, value))
    parts = value.get("content") if isinstance(value, dict) else None
    return max(1, len(parts)) if isinstance(parts, list) else 1


def _tokens(queries: Any, documents: Any, pairs: int, rules: Rules) -> int:
    """Return how many tokens the pairs have at most: a text no more than bytes, a prompt no more than the context."""
    most = rules.context or rules.max_bytes
    around = longest(queries) + rules.template + PAIR_TOKENS
    each = documents if isinstance(documents, list) else [documents] * pairs
    return sum(min(most, around + longest(one)) for one in each)


def _judge_template_fields(given: Mapping[str, Any], rules: Rules) -> None:
    """Refuse what would be ignored without a word: by a model without a template, or by an older vLLM."""
    for name in (one for one in TO_TEMPLATE if one in given):
        if not rules.template:
            raise Refusal(400, f"{name}: this model has no prompt that takes it")
        if name not in rules.fields:
            raise Refusal(400, f"{name}: this version of vLLM takes none for /rerank and /score")


def _cut_documents(given: dict[str, Any], rules: Rules) -> None:
    """Have documents cut instead of the whole prompt, which would lose the template's ending and score wrongly.

    A text has no more tokens than bytes, so that query and template are counted as bytes.
    """
    limit = given.pop("truncate_prompt_tokens", rules.truncate)
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or not (limit == -1 or 0 < limit <= rules.context):
        raise Refusal(400, f"truncate_prompt_tokens: -1 or 1 to {rules.context}, the tokens that this model reads")
    beside = sum(longest(given.get(one)) for one in (*QUERIES, *TO_TEMPLATE))
    room = (rules.context if limit == -1 else limit) - rules.template - beside
    if all(longest(given.get(one)) <= room for one in DOCUMENTS):
        return
    if room > 0 and "max_tokens_per_doc" in rules.fields:
        given["max_tokens_per_doc"] = min(room, _whole(given.get("max_tokens_per_doc")) or room)
    elif limit != -1:
        raise Refusal(400, "truncate_prompt_tokens: would cut this model's prompt; send a shorter query or documents")


def longest(value: Any) -> int:
    """Return the bytes of a text, the longest of several, or an object."""
    if isinstance(value, str):  # the document of almost every request
        return len(value.encode())
    texts = value if isinstance(value, list) else [value] if value else []
    return max((len((text if isinstance(text, str) else json.dumps(text)).encode()) for text in texts), default=0)


def _whole(value: Any) -> int:
    """Return a whole number that is given, 0 for anything else."""
    return value if isinstance(value, int) and value > 0 else 0
