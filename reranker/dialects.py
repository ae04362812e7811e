"""What clients of other rerankers send and expect: their requests to ours, our scores to their answers. Pure.

Called by `proxy`. A dialect is found by the request's fields, or named by the first part of the path where the fields
do not tell: /voyage/v1/rerank, /infinity/rerank. tests/client/test_dialects.py has what each client really sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reranker.errors import InvalidInput

OPERATIONS = frozenset({"rerank", "score", "models", "info", "health", "metrics"})
PASSED_ON = ("instruction", "chat_template_kwargs")
CUT_AT_MODEL_LENGTH = -1


@dataclass(frozen=True)
class Route:
    """What a path asks for: an operation, the version before it, and the dialect where the path names one."""

    operation: str
    version: str = ""
    dialect: str = ""


@dataclass(frozen=True)
class Asked:
    """A request in whatever dialect: what to score, and what of it to answer.

    `given` are the documents as they came, `documents` their texts. `extra` goes to the server as it is.
    """

    dialect: str
    query: str
    documents: tuple[str, ...]
    given: tuple[Any, ...] = field(repr=False)
    model: str | None = None
    top_n: int | None = None
    max_tokens_per_doc: int | None = None
    wants_documents: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores of an answer: (index, score) best first; the model, an id, and the tokens that were read."""

    results: Sequence[tuple[int, float]]
    model: str
    id: str
    tokens: int


def route(path: str) -> Route | None:
    """Return what a path asks for, None for one that nobody sends: [/dialect][/v1|/v2]/operation, any slashes."""
    parts = [part for part in path.split("/") if part]
    dialect = parts.pop(0) if parts and parts[0] in ANSWERS else ""
    version = parts.pop(0) if parts and parts[0] in ("v1", "v2") else ""
    return Route(parts[0], version, dialect) if len(parts) == 1 and parts[0] in OPERATIONS else None


def dialect_of(where: Route, body: Mapping[str, Any]) -> str:
    """Return the dialect of a request: what the path names, else what its fields tell."""
    if where.dialect == "cohere":
        return "cohere-v2" if where.version == "v2" else "cohere"
    if where.dialect:
        return where.dialect
    if "texts" in body:
        return "tei"
    if "top_k" in body or "truncation" in body:
        return "voyage"
    return "cohere-v2" if where.version == "v2" else "jina"


def read(where: Route, body: object) -> Asked:
    """Return what a body of /rerank asks for. Raises InvalidInput."""
    if not isinstance(body, dict):
        raise InvalidInput("the body is not a JSON object")
    dialect = dialect_of(where, body)
    name = "texts" if dialect == "tei" else "documents"
    given, fields = body.get(name), body.get("rank_fields") or ()
    if not isinstance(given, list):
        raise InvalidInput(f"{name} is not a list")
    wants = _truth("return_text" if dialect == "tei" else "return_documents", body)
    limit = body.get("truncate_prompt_tokens")
    return Asked(
        dialect=dialect,
        query=text_of("query", body.get("query")),
        documents=tuple(text_of(f"{name}[{index}]", one, fields) for index, one in enumerate(given)),
        given=tuple(given),
        model=body["model"] if isinstance(body.get("model"), str) and body["model"] else None,
        top_n=_whole("top_n", body) or _whole("top_k", body),
        max_tokens_per_doc=_whole("max_tokens_per_doc", body),
        wants_documents=dialect in GIVES_DOCUMENTS if wants is None else wants,
        extra={key: body[key] for key in PASSED_ON if body.get(key) is not None}
        | {"truncate_prompt_tokens": CUT_AT_MODEL_LENGTH if limit is None else limit},
    )


def text_of(name: str, given: object, fields: Sequence[str] = ()) -> str:
    """Return the text of a document: a string, its `text`, those of its `fields`, or all of it as JSON.

    Raises InvalidInput.
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, dict):
        raise InvalidInput(f"{name} is {type(given).__name__}, not a string")
    if given.keys() <= {"image"}:
        raise InvalidInput(f"{name} has no text; images are not read")
    if fields:
        return "\n".join(f"{one}: {given[one]}" for one in fields if one in given)
    text = given.get("text")
    return text if isinstance(text, str) else json.dumps(given, ensure_ascii=False)


def answer(asked: Asked, scored: Scored) -> Any:
    """Return the body of the answer, in the dialect of the request."""
    return ANSWERS[asked.dialect](asked, scored)


def refusal(dialect: str, status: int, text: str) -> dict[str, Any]:
    """Return the body of an error, so that each client finds its text where it looks for it."""
    if dialect == "tei":
        return {"error": text, "error_type": "Validation" if status < 500 else "Backend"}
    return {"message": text, "detail": text, "error": {"message": text, "code": status}}


def info(model: str, max_model_len: int | None, max_documents: int) -> dict[str, Any]:
    """Return TEI's /info, of which clients read the kind of model, its length and the size of a request."""
    return {
        "model_id": model,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_input_length": max_model_len,
        "max_client_batch_size": max_documents,
        "auto_truncate": True,
    }


def _whole(name: str, body: Mapping[str, Any]) -> int | None:
    """Return a number from 1, also one that is written as text; None for null, nothing and 0."""
    value = body.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"{name} is a whole number from 1")
    return value or None


def _truth(name: str, body: Mapping[str, Any]) -> bool | None:
    value = body.get(name)
    return value.lower() == "true" if isinstance(value, str) else value if isinstance(value, bool) else None


def _rows(asked: Asked, scored: Scored, document: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [
        {"index": index, "relevance_score": score} | ({"document": document(index)} if asked.wants_documents else {})
        for index, score in scored.results
    ]


def _object(asked: Asked) -> Callable[[int], Any]:
    return lambda index: asked.given[index] if isinstance(asked.given[index], dict) else {"text": asked.given[index]}


def _usage(scored: Scored) -> dict[str, int]:
    return {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens}


def _cohere(asked: Asked, scored: Scored) -> Any:
    version = "2" if asked.dialect == "cohere-v2" else "1"
    return {
        "id": scored.id,
        "results": _rows(asked, scored, _object(asked)),
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": scored.tokens, "output_tokens": 0},
        },
    }


def _jina(asked: Asked, scored: Scored) -> Any:
    """Return what Jina, vLLM and Cohere v1 have in common, and all that each has besides."""
    return _cohere(asked, scored) | {"object": "list", "model": scored.model, "usage": _usage(scored)}


def _infinity(asked: Asked, scored: Scored) -> Any:
    rows = _rows(asked, scored, asked.documents.__getitem__)
    return {"object": "rerank", "id": scored.id, "model": scored.model, "results": rows, "usage": _usage(scored)}


def _voyage(asked: Asked, scored: Scored) -> Any:
    rows = _rows(asked, scored, asked.documents.__getitem__)
    return {"object": "list", "data": rows, "model": scored.model, "usage": {"total_tokens": scored.tokens}}


def _tei(asked: Asked, scored: Scored) -> Any:
    return [
        {"index": index, "score": score} | ({"text": asked.documents[index]} if asked.wants_documents else {})
        for index, score in scored.results
    ]


ANSWERS: Mapping[str, Callable[[Asked, Scored], Any]] = {
    "cohere": _cohere,
    "cohere-v2": _cohere,
    "jina": _jina,
    "infinity": _infinity,
    "voyage": _voyage,
    "tei": _tei,
}
# what a request gets that does not say: vLLM and Jina send the documents back, the others do not
GIVES_DOCUMENTS = frozenset({"jina"})
