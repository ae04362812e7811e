"""vLLM's pooling routes without a model: the same fields, limits and errors; scores by word overlap.

Used by `stub` (a process, behind the guard and TLS) and by `stub_inline` (inside the emulator). Statuses and bodies are
those observed with vLLM 0.32.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from emulator import stub_requests
from emulator.stub_requests import Inputs, Refused, Request, RerankRequest, Unreadable, parse

VERSION = "0.32.0-stub"
TOKENS_PER_WORD = 1.3
# Special tokens of a pair and of a single text; tokens of a chat template.
PAIR_TOKENS = 4
TEXT_TOKENS = 2
TEMPLATE_TOKENS = 100
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORE = ("/score", "/v1/score")
READ = ("/health", "/ping", "/version", "/load", "/metrics", "/v1/models", "/openapi.json")
IS_JSON = {"content-type": "application/json"}
NO_JSON = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
NO_MM_KWARGS = (
    "Per-request mm_processor_kwargs are disabled by default because they can change multimodal preprocessing resource "
    "usage. Start the server with --trust-request-mm-kwargs only when clients are trusted. "
    "(parameter=mm_processor_kwargs)"
)
STOP_WORDS = frozenset(
    "a an and are as at be by can do does for from how i in is it my of on or that the to what you".split()  # noqa: SIM905
)
METRICS = (
    "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
    "# TYPE vllm:num_requests_running gauge\n"
    'vllm:num_requests_running{engine="0",model_name="%(name)s"} %(running).1f\n'
    "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n"
    "# TYPE vllm:num_requests_waiting gauge\n"
    'vllm:num_requests_waiting{engine="0",model_name="%(name)s"} 0.0\n'
    "# HELP vllm:request_success_total Count of successfully processed requests.\n"
    "# TYPE vllm:request_success_total counter\n"
    'vllm:request_success_total{engine="0",finished_reason="stop",model_name="%(name)s"} %(answered).1f\n'
)
Kind = Literal["cross-encoder", "bi-encoder", "decoder"]


@dataclass(frozen=True)
class Served:
    """The served model: names, path of the weights, maximum length, accepted keys (empty: no key check).

    A bi-encoder reads each text separately, a decoder reads a pair inside a chat template.
    """

    names: tuple[str, ...]
    root: str = ""
    max_model_len: int = 512
    keys: tuple[str, ...] = ()
    kind: Kind = "cross-encoder"

    @property
    def name(self) -> str:
        """The name in answers."""
        return self.names[0]

    def is_unauthorized(self, method: str, path: str, authorization: str) -> bool:
        """Return whether vLLM's key check refuses a request; vLLM checks the key of /v1 and /v2 only."""
        if not self.keys or method == "OPTIONS" or not path.startswith(("/v1", "/v2")):
            return False
        return authorization not in {f"Bearer {key}" for key in self.keys}


def detect_kind(name: str, root: str = "", template: str | None = None) -> Kind:
    """Return a model's kind, from the config.json of its weights if present, else from its name."""
    if template:
        return "decoder"
    config = Path(root) / "config.json"
    if not root or not config.is_file():
        return "bi-encoder" if name.startswith("sentence-transformers/") else "cross-encoder"
    architecture = json.loads(config.read_text()).get("architectures", [""])[0]
    return "cross-encoder" if architecture.endswith("ForSequenceClassification") else "bi-encoder"


@dataclass(frozen=True)
class Load:
    """Values for /metrics: running requests (each counts as one pair) and scored pairs."""

    running: int = 0
    answered: int = 0


IDLE = Load()


def respond(
    method: str, path: str, body: bytes, served: Served, headers: Mapping[str, str] = IS_JSON, *, load: Load = IDLE
) -> tuple[int, Any]:
    """Return the status and the JSON body (or text) for a request. Header names are lower case."""
    if served.is_unauthorized(method, path, headers.get("authorization", "")):
        return 401, {"error": "Unauthorized"}
    if path in READ:
        if method != "GET" and path != "/metrics" and not (path == "/ping" and method == "POST"):
            return 405, {"detail": "Method Not Allowed"}
        return 200, _read(path, served, load)
    if path not in RERANK + SCORE:
        return 404, {"detail": "Not Found"}
    if method != "POST":
        return 405, {"detail": "Method Not Allowed"}
    request_id = f"score-{headers.get('x-request-id') or format(time.time_ns(), '016x')}"
    try:
        if headers.get("content-type", "").lower().partition(";")[0] != "application/json":
            raise Refused(400, NO_JSON, "Bad Request")
        if path in RERANK:
            answer = _rerank(parse(body, stub_requests.RERANK), served)
        else:
            answer = _score(parse(body, stub_requests.SCORE), served)
    except Refused as refused:
        return refused.status, {"error": refused.error}
    except Unreadable as error:
        return 400, {"detail": str(error)}
    return 200, {"id": request_id} | answer


def overlap(query: str, text: str) -> float:
    """Return a score in 0..1 that grows with the share of common words."""
    left, right = _words(query), _words(text)
    if not left or not right:
        return 0.01
    share = len(left & right) / math.sqrt(len(left) * len(right))
    return round(1 / (1 + math.exp(4 - 12 * share)), 6)


def _words(text: str) -> set[str]:
    return {word[:6] for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS}


def _read(path: str, served: Served, load: Load) -> Any:
    if path == "/version":
        return {"version": VERSION}
    if path == "/load":
        return {"server_load": 0}
    if path == "/metrics":
        return METRICS % {"name": served.name, "running": load.running, "answered": load.answered}
    if path == "/openapi.json":
        return _openapi()
    if path == "/v1/models":
        return {"object": "list", "data": [_model_card(name, served) for name in served.names]}
    return ""


@cache
def _openapi() -> dict[str, Any]:
    """Return the OpenAPI document, with the schemas of requests."""
    paths: dict[str, Any] = {path: {"post": {}} for path in (*RERANK, *SCORE, "/ping")}
    for path in set(READ) - {"/metrics", "/openapi.json"}:
        paths.setdefault(path, {})["get"] = {}
    models = (RerankRequest, *stub_requests.SCORES)
    schemas = {model.__name__: model.model_json_schema(ref_template="#/components/schemas/{model}") for model in models}
    return {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths} | {
        "components": {"schemas": schemas}
    }


# ---- requests --------------------------------------------------------------------------------------------------------


def _pairs(request: Request, served: Served) -> tuple[list[tuple[str, str]], int]:
    """Return the pairs to score and their total number of tokens. Raises Refused; checks have vLLM's order."""
    if request.mm_processor_kwargs:
        raise Refused(400, NO_MM_KWARGS, param="mm_processor_kwargs")
    if request.model and request.model not in served.names:
        raise Refused(404, f"The model `{request.model}` does not exist.", "NotFoundError")
    limit, cut = served.max_model_len, request.truncate_prompt_tokens
    if cut is not None and cut > limit:
        raise Refused(
            400, "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size."
        )
    firsts, seconds = map(_texts, request.pair)
    if len(firsts) > 1 and len(firsts) != len(seconds):
        raise Refused(400, "Input lengths must be either 1:1, 1:N or N:N")
    if not firsts or not seconds:
        raise Refused(400, f"At least one {'text' if not firsts else 'text_pair'} element must be given")
    for name in ("max_tokens_per_query", "max_tokens_per_doc"):
        value = getattr(request, name)
        if value < 0:
            raise Refused(400, f"{name} must be a non-negative integer")
        if value >= limit:
            raise Refused(400, f"{name} ({value}) must be less than max_model_len ({limit}).")
    pairs = list(zip(firsts * (len(seconds) if len(firsts) == 1 else 1), seconds, strict=True))
    lefts = [_text_tokens(text, request.max_tokens_per_query) for text in firsts]
    rights = [_text_tokens(text, request.max_tokens_per_doc) for text in seconds]
    if served.kind == "bi-encoder":  # each text is a separate prompt
        prompts = [count + TEXT_TOKENS for count in (*lefts, *rights)]
        separators = len(pairs)
    else:
        extra = TEMPLATE_TOKENS if served.kind == "decoder" else PAIR_TOKENS
        lefts = lefts * (len(rights) if len(lefts) == 1 else 1)
        prompts, separators = [left + right + extra for left, right in zip(lefts, rights, strict=True)], 0
    return pairs, sum(_prompt_tokens(count, request, limit) for count in prompts) + separators


def _texts(value: Inputs) -> list[str]:
    """Return a text or a list of texts as a list. Raises Refused."""
    texts = []
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise Refused(400, "MultiModalParam is not supported for a model of texts")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise Refused(400, "TextInputSequence must be str")
        texts.append(text)
    return texts


def _text_tokens(text: str, maximum: int) -> int:
    count = math.ceil(TOKENS_PER_WORD * len(text.split()))
    return min(count, maximum) if maximum else count


def _prompt_tokens(count: int, request: Request, limit: int) -> int:
    cut = limit if request.truncate_prompt_tokens == -1 else request.truncate_prompt_tokens
    count = count if cut is None else min(count, cut)
    if count > limit:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least "
            f"{limit + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
            f"length of the input prompt. (parameter=input_tokens, value={limit + 1})"
        )
        raise Refused(400, message, param="input_tokens")
    if request.padding == "max_length":
        return limit
    if not count:
        raise Refused(400, "The decoder prompt cannot be empty")
    return count


# ---- answers ---------------------------------------------------------------------------------------------------------


def _rerank(request: RerankRequest, served: Served) -> dict[str, Any]:
    pairs, tokens = _pairs(request, served)
    scored = sorted(((overlap(*pair), n) for n, pair in enumerate(pairs)), key=lambda item: -item[0])
    results = [
        {"index": n, "document": {"text": pairs[n][1], "multi_modal": None}, "relevance_score": score}
        for score, n in scored
    ]
    return {
        "model": served.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[: request.top_n or None],
    }


def _score(request: Request, served: Served) -> dict[str, Any]:
    pairs, tokens = _pairs(request, served)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {
        "object": "list",
        "created": int(time.time()),
        "model": served.name,
        "data": [{"index": n, "object": "score", "score": overlap(*pair)} for n, pair in enumerate(pairs)],
        "usage": usage | {"prompt_tokens_details": None, "completion_tokens_details": None},
    }


def _model_card(name: str, served: Served) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{time.time_ns():016x}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": served.root or served.name,
        "parent": None,
        "max_model_len": served.max_model_len,
        "permission": [permission],
    }
