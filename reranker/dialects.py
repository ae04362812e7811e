"""Request and response formats of other rerankers' APIs ("dialects"). Called by `proxy`.

The fields of a request identify its dialect, or the first part of the path does: /voyage/v1/rerank, /infinity/rerank.
tests/client/test_dialects.py contains requests recorded from each client.
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
    """A parsed path: operation, API version and dialect; version and dialect are "" if not in the path."""

    operation: str
    version: str = ""
    dialect: str = ""


@dataclass(frozen=True)
class RerankRequest:
    """A rerank request, independent of its dialect.

    `originals`: the documents of the request, `documents`: their texts. `extra`: fields sent to the server unchanged.
    """

    dialect: str
    query: str
    documents: tuple[str, ...]
    originals: tuple[Any, ...] = field(repr=False)
    model: str | None = None
    top_n: int | None = None
    max_tokens_per_doc: int | None = None
    return_documents: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RerankResult:
    """`results`: (index, score), best first. `tokens`: number of input tokens."""

    results: Sequence[tuple[int, float]]
    model: str
    id: str
    tokens: int


def parse_route(path: str) -> Route | None:
    """Parse [/dialect][/v1|/v2]/operation; extra slashes are ignored. Returns None for an unknown path."""
    parts = [part for part in path.split("/") if part]
    dialect = parts.pop(0) if parts and parts[0] in FORMATTERS else ""
    version = parts.pop(0) if parts and parts[0] in ("v1", "v2") else ""
    return Route(parts[0], version, dialect) if len(parts) == 1 and parts[0] in OPERATIONS else None


def detect_dialect(route: Route, body: Mapping[str, Any]) -> str:
    """Return the dialect from the path, or else from the fields of the body."""
    if route.dialect == "cohere":
        return "cohere-v2" if route.version == "v2" else "cohere"
    if route.dialect:
        return route.dialect
    if "texts" in body:
        return "tei"
    if "top_k" in body or "truncation" in body:
        return "voyage"
    return "cohere-v2" if route.version == "v2" else "jina"


def parse_request(route: Route, body: object) -> RerankRequest:
    """Parse the body of a rerank request. Raises InvalidInput."""
    if not isinstance(body, dict):
        raise InvalidInput("the body is not a JSON object")
    dialect = detect_dialect(route, body)
    name = "texts" if dialect == "tei" else "documents"
    originals, fields = body.get(name), body.get("rank_fields") or ()
    if not isinstance(originals, list):
        raise InvalidInput(f"{name} is not a list")
    return_documents = _flag("return_text" if dialect == "tei" else "return_documents", body)
    limit = body.get("truncate_prompt_tokens")
    return RerankRequest(
        dialect=dialect,
        query=document_text("query", body.get("query")),
        documents=tuple(document_text(f"{name}[{index}]", item, fields) for index, item in enumerate(originals)),
        originals=tuple(originals),
        model=body["model"] if isinstance(body.get("model"), str) and body["model"] else None,
        top_n=_positive_int("top_n", body) or _positive_int("top_k", body),
        max_tokens_per_doc=_positive_int("max_tokens_per_doc", body),
        return_documents=dialect in RETURNS_DOCUMENTS if return_documents is None else return_documents,
        extra={key: body[key] for key in PASSED_ON if body.get(key) is not None}
        | {"truncate_prompt_tokens": CUT_AT_MODEL_LENGTH if limit is None else limit},
    )


def document_text(name: str, document: object, fields: Sequence[str] = ()) -> str:
    """Return a string as is; of an object its `fields`, its `text`, or all of it as JSON. Raises InvalidInput."""
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise InvalidInput(f"{name} is {type(document).__name__}, not a string")
    if document.keys() <= {"image"}:
        raise InvalidInput(f"{name} has no text; images are not supported")
    if fields:
        return "\n".join(f"{key}: {document[key]}" for key in fields if key in document)
    text = document.get("text")
    return text if isinstance(text, str) else json.dumps(document, ensure_ascii=False)


def format_answer(request: RerankRequest, result: RerankResult) -> Any:
    """Return the response body in the dialect of the request."""
    return FORMATTERS[request.dialect](request, result)


def error_body(dialect: str, status: int, text: str) -> dict[str, Any]:
    """Return an error body with the text in all fields that the clients of the dialect read."""
    if dialect == "tei":
        return {"error": text, "error_type": "Validation" if status < 500 else "Backend"}
    return {"message": text, "detail": text, "error": {"message": text, "code": status}}


def tei_info(model: str, max_model_len: int | None, max_documents: int) -> dict[str, Any]:
    """Return the body of TEI's /info, with the fields that clients read."""
    return {
        "model_id": model,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_input_length": max_model_len,
        "max_client_batch_size": max_documents,
        "auto_truncate": True,
    }


def _positive_int(name: str, body: Mapping[str, Any]) -> int | None:
    """Return a whole number, also from a string; None if it is missing, null, "" or 0. Raises InvalidInput."""
    value = body.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"{name} must be a whole number from 1")
    return value or None


def _flag(name: str, body: Mapping[str, Any]) -> bool | None:
    value = body.get(name)
    return value.lower() == "true" if isinstance(value, str) else value if isinstance(value, bool) else None


def _rows(request: RerankRequest, result: RerankResult, documents: Sequence[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"index": index, "relevance_score": score} for index, score in result.results]
    return [row | {"document": documents[row["index"]]} for row in rows] if request.return_documents else rows


def _usage(result: RerankResult) -> dict[str, int]:
    return {"prompt_tokens": result.tokens, "total_tokens": result.tokens}


def _cohere(request: RerankRequest, result: RerankResult) -> Any:
    objects = [item if isinstance(item, dict) else {"text": item} for item in request.originals]
    return {
        "id": result.id,
        "results": _rows(request, result, objects),
        "meta": {
            "api_version": {"version": "2" if request.dialect == "cohere-v2" else "1"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": result.tokens, "output_tokens": 0},
        },
    }


def _jina(request: RerankRequest, result: RerankResult) -> Any:
    """Return the fields of Jina, vLLM and Cohere v1 together: these dialects cannot be distinguished."""
    return _cohere(request, result) | {"object": "list", "model": result.model, "usage": _usage(result)}


def _infinity(request: RerankRequest, result: RerankResult) -> Any:
    rows = _rows(request, result, request.documents)
    return {"object": "rerank", "id": result.id, "model": result.model, "results": rows, "usage": _usage(result)}


def _voyage(request: RerankRequest, result: RerankResult) -> Any:
    rows = _rows(request, result, request.documents)
    return {"object": "list", "data": rows, "model": result.model, "usage": {"total_tokens": result.tokens}}


def _tei(request: RerankRequest, result: RerankResult) -> Any:
    return [
        {"index": index, "score": score} | ({"text": request.documents[index]} if request.return_documents else {})
        for index, score in result.results
    ]


FORMATTERS: Mapping[str, Callable[[RerankRequest, RerankResult], Any]] = {
    "cohere": _cohere,
    "cohere-v2": _cohere,
    "jina": _jina,
    "infinity": _infinity,
    "voyage": _voyage,
    "tei": _tei,
}
# dialects that return the documents by default, as vLLM and Jina do
RETURNS_DOCUMENTS = frozenset({"jina"})
