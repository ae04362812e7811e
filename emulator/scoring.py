"""vLLM's pooling routes in miniature: shapes, limits and errors as the real server gives them, scores by word overlap.

Served by `stub` (a process, behind the real guard and TLS) and by the `none` runtime (inside the emulator). A stand-in
for weights, not for vLLM's interface: statuses and bodies are those that vLLM 0.32 was seen to give.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from typing import Any

VERSION = "0.32.0-stub"
TOKENS_PER_WORD = 1.3
# vLLM's own defaults are 0: it takes these as numbers, or not at all, and null for neither
NOT_NULL = ("top_n", "max_tokens_per_query", "max_tokens_per_doc")
SPECIAL_TOKENS = 4  # around and between the two texts of a pair
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORE = ("/score", "/v1/score")
READ = ("/health", "/version", "/load", "/metrics", "/v1/models")
STOP_WORDS = frozenset(
    "a an and are as at be by can do does for from how i in is it my of on or that the to what you".split()  # noqa: SIM905
)
METRICS = (
    "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
    "# TYPE vllm:num_requests_running gauge\n"
    'vllm:num_requests_running{engine="0",model_name="%s"} 0.0\n'
)


@dataclass(frozen=True)
class Served:
    """What a server serves: the names it answers to, where its weights are, how long a pair may be, who may ask."""

    names: tuple[str, ...]
    root: str = ""
    max_model_len: int = 512
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that answers carry."""
        return self.names[0]

    def locked(self, method: str, path: str, authorization: str) -> bool:
        """Whether vLLM's own key keeps a request out: it covers /v1 and /v2, and nothing else."""
        if not self.keys or method == "OPTIONS" or not path.startswith(("/v1", "/v2")):
            return False
        return authorization not in {f"Bearer {key}" for key in self.keys}


class Refused(Exception):
    """An error answer: status, message, type, parameter."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": status}
        super().__init__(message)


def respond(method: str, path: str, body: bytes, served: Served, authorization: str = "") -> tuple[int, Any]:
    """Return status and JSON body (or text) for a request."""
    if served.locked(method, path, authorization):
        return 401, {"error": "Unauthorized"}
    if path in (*READ, "/ping"):
        if method not in ("GET", "HEAD") and not (path == "/ping" and method == "POST"):
            return 405, {"detail": "Method Not Allowed"}
        return 200, _read(path, served)
    if path not in RERANK + SCORE:
        return 404, {"detail": "Not Found"}
    if method != "POST":
        return 405, {"detail": "Method Not Allowed"}
    try:
        asked = _parse(body)
        answer = _rerank(asked, served) if path in RERANK else _score(asked, served)
    except Refused as refused:
        return refused.status, {"error": refused.error}
    return 200, answer


def overlap(query: str, text: str) -> float:
    """Return a score in 0..1 that grows with the share of the query's words that the text has."""
    left, right = _words(query), _words(text)
    if not left or not right:
        return 0.01
    share = len(left & right) / math.sqrt(len(left) * len(right))
    return round(1 / (1 + math.exp(4 - 12 * share)), 6)


def _words(text: str) -> set[str]:
    return {word[:6] for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS}


def _read(path: str, served: Served) -> Any:
    if path == "/version":
        return {"version": VERSION}
    if path == "/load":
        return {"server_load": 0}
    if path == "/metrics":
        return METRICS % served.name
    if path == "/v1/models":
        return {"object": "list", "data": [_model_card(name, served) for name in served.names]}
    return ""


# ---- what a request must be ------------------------------------------------------------------------------------------


def _problem(kind: str, where: str, msg: str, given: str, **context: object) -> str:
    parts = {"type": kind, "loc": where, "msg": msg, "input": given} | ({"ctx": context} if context else {})
    return f"  {parts}"


def _invalid(problems: list[str], param: str | None) -> Refused:
    count = len(problems)
    head = f"{count} validation error{'s' if count > 1 else ''}:"
    return Refused(400, "\n".join([head, *problems]), "Bad Request", param)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except json.JSONDecodeError as error:
        where = f"body.{error.pos}"
        problem = _problem("json_invalid", where, "JSON decode error", "<dict of 0 items>", error=error.msg)
        raise _invalid([problem], where) from None
    except UnicodeDecodeError:
        raise Refused(400, "There was an error parsing the body", "Bad Request") from None
    if not isinstance(asked, dict):
        msg = "Input should be a valid dictionary or object to extract fields from"
        raise _invalid([_problem("model_attributes_type", "body", msg, str(asked))], "body")
    return asked


def _required(asked: dict[str, Any], *names: str) -> None:
    missing = [name for name in names if name not in asked]
    if missing:
        given = f"<dict of {len(asked)} items>"
        problems = [_problem("missing", f"body.{name}", "Field required", given) for name in missing]
        raise _invalid(problems, f"body.{missing[0]}")


def _not_null(asked: dict[str, Any]) -> None:
    nulls = [name for name in NOT_NULL if name in asked and asked[name] is None]
    if nulls:
        msg = "Input should be a valid integer"
        raise _invalid([_problem("int_type", f"body.{name}", msg, "None") for name in nulls], f"body.{nulls[0]}")


def _texts(value: Any, where: str) -> list[str]:
    """Return one text or a list of texts as a list; a text may be an object with `text`."""
    found = []
    for one in value if isinstance(value, list) else [value]:
        text = one.get("text") if isinstance(one, dict) else one
        if not isinstance(text, str):
            problems = [
                _problem("string_type", where, "Input should be a valid string", str(one)),
                _problem("dict_type", f"{where}.ScoreMultiModalParam", "Input should be a valid dictionary", str(one)),
            ]
            raise _invalid(problems, where)
        found.append(text)
    return found


def _at_least(asked: dict[str, Any], name: str, least: int) -> int | None:
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        msg = "Input should be a valid integer, unable to parse string as an integer"
        raise _invalid([_problem("int_parsing", f"body.{name}", msg, str(value))], f"body.{name}")
    if value < least:
        msg = f"Input should be greater than or equal to {least}"
        raise _invalid([_problem("greater_than_equal", f"body.{name}", msg, str(value), ge=least)], f"body.{name}")
    return value


def _known_model(asked: dict[str, Any], served: Served) -> None:
    model = asked.get("model")
    if model and model not in served.names:
        raise Refused(404, f"The model `{model}` does not exist.", "NotFoundError")


def _tokens(asked: dict[str, Any], query: str, text: str, limit: int) -> int:
    count = int(TOKENS_PER_WORD * (len(query.split()) + len(text.split()))) + SPECIAL_TOKENS
    truncate = _at_least(asked, "truncate_prompt_tokens", -1)
    if truncate is not None:
        if truncate > limit:
            raise Refused(
                400,
                f"truncate_prompt_tokens ({truncate}) cannot be greater than max_model_len ({limit}). Please request "
                "a smaller truncation size.",
                param="truncate_prompt_tokens",
            )
        return min(count, limit if truncate == -1 else truncate)
    if count > limit:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your prompt contains at least "
            f"{limit + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
            f"length of the input prompt. (parameter=input_tokens, value={limit + 1})"
        )
        raise Refused(400, message, param="input_tokens")
    return count


# ---- answers ---------------------------------------------------------------------------------------------------------


def _rerank(asked: dict[str, Any], served: Served) -> dict[str, Any]:
    _required(asked, "query", "documents")
    _not_null(asked)
    top_n = _at_least(asked, "top_n", 0) or 0
    query = _texts(asked["query"], "body.query")[0]
    texts = _texts(asked["documents"], "body.documents")
    _known_model(asked, served)
    if not texts:
        raise Refused(400, "At least one text_pair element must be given")
    tokens = sum(_tokens(asked, query, text, served.max_model_len) for text in texts)
    scores = [(overlap(query, text), n) for n, text in enumerate(texts)]
    results = [
        {"index": n, "document": {"text": texts[n], "multi_modal": None}, "relevance_score": score}
        for score, n in sorted(scores, key=lambda one: -one[0])
    ]
    return {
        "id": f"score-{time.time_ns():016x}",
        "model": served.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[:top_n] if top_n else results,
    }


def _score(asked: dict[str, Any], served: Served) -> dict[str, Any]:
    names = next((pair for pair in (("text_1", "text_2"), ("queries", "documents")) if pair[0] in asked), None)
    names = names or ("text_1", "text_2")
    _required(asked, *names)
    firsts, seconds = _texts(asked[names[0]], f"body.{names[0]}"), _texts(asked[names[1]], f"body.{names[1]}")
    _known_model(asked, served)
    if not firsts or not seconds:
        raise Refused(400, f"At least one {'text' if not firsts else 'text_pair'} element must be given")
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise Refused(400, "Input lengths must be either 1:1, 1:N or N:N")
    pairs = list(zip(firsts, seconds, strict=True))
    tokens = sum(_tokens(asked, *pair, served.max_model_len) for pair in pairs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {
        "id": f"score-{time.time_ns():016x}",
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
