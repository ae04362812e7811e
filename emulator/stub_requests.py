"""The requests of vLLM 0.32's scoring routes, as pydantic models with the same fields and error texts.

Called by `scoring`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Required, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12

SALT_CHARS = 128
NOT_IN_SALT = "@/\\\0"
MAX_REPORTED = 10
INPUT_CHARS = 200
# Types in pydantic's error locations: vLLM omits them.
TYPES = frozenset({"str", "int", "bool", "dict"})


class Refused(Exception):
    """An error answer of vLLM: status, message, type, parameter."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": status}
        super().__init__(message)


class Unreadable(Exception):
    """A body that is not UTF-8: its error answer has a different form."""


class _Text(TypedDict, total=False):
    text: Required[str]
    type: Required[Literal["text"]]


class _Url(TypedDict, total=False):
    url: Required[str]


class _Image(TypedDict, total=False):
    image_url: Required[_Url]
    type: Required[Literal["image_url"]]


class ScoreMultiModalParam(TypedDict, total=False):
    """An input of text and image parts, for multimodal models."""

    content: Required[list[_Image | _Text]]


Input = str | ScoreMultiModalParam
Inputs = Input | list[Input]


class Request(BaseModel):
    """The common fields of scoring requests. Unknown properties are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    use_activation: bool | None = None
    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    padding: Literal["max_length", "do_not_pad"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    request_id: str = ""
    priority: int = Field(default=0, ge=-(2**63), le=2**63 - 1)
    mm_processor_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=1024)
    max_tokens_per_query: int = 0
    max_tokens_per_doc: int = 0
    instruction: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _salt(cls, data: Any) -> Any:
        salt = data.get("cache_salt") if isinstance(data, dict) else None
        if salt is None:
            return data
        if not isinstance(salt, str) or not salt:
            text = "Parameter 'cache_salt' must be a non-empty string if provided."
            raise Refused(400, f"{text} (parameter=cache_salt)", param="cache_salt")
        if len(salt) > SALT_CHARS or set(salt) & set(NOT_IN_SALT):
            text = f"Parameter 'cache_salt' must be at most {SALT_CHARS} characters and must not contain '@', '/', "
            raise Refused(400, f"{text}'\\\\', or NUL. (parameter=cache_salt)", param="cache_salt")
        return data

    @model_validator(mode="wrap")
    @classmethod
    def _extra(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        return handler(data)  # as in vLLM: a wrap validator affects which model of a union matches

    @property
    def pair(self) -> tuple[Inputs, Inputs]:
        """The two inputs."""
        first, second = (name for name, field in type(self).model_fields.items() if field.is_required())
        return getattr(self, first), getattr(self, second)


R = TypeVar("R", bound=Request)


class RerankRequest(Request):
    """A query and the documents to rank."""

    query: Input
    documents: Inputs
    top_n: int = Field(default=0, ge=0)


class ScoreQueriesDocumentsRequest(Request):
    """Pairs of queries and documents."""

    queries: Inputs
    documents: Inputs


class ScoreQueriesItemsRequest(Request):
    """Pairs, with other field names."""

    queries: Inputs
    items: Inputs


class ScoreDataRequest(Request):
    """Pairs, with other field names."""

    data_1: Inputs
    data_2: Inputs


class ScoreTextRequest(Request):
    """Pairs, with the oldest field names."""

    text_1: Inputs
    text_2: Inputs


RERANK: TypeAdapter[RerankRequest] = TypeAdapter(RerankRequest)
SCORES = (ScoreQueriesDocumentsRequest, ScoreQueriesItemsRequest, ScoreDataRequest, ScoreTextRequest)
SCORE: TypeAdapter[Request] = TypeAdapter(
    ScoreQueriesDocumentsRequest | ScoreQueriesItemsRequest | ScoreDataRequest | ScoreTextRequest
)


def parse(body: bytes, adapter: TypeAdapter[R]) -> R:
    """Return a request. Raises Refused, Unreadable."""
    try:
        data = json.loads(body) if body else None
    except json.JSONDecodeError as error:
        raise _invalid([{
            "type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {},
            "ctx": {"error": error.msg},
        }]) from None  # fmt: skip
    except UnicodeDecodeError:
        raise Unreadable("There was an error parsing the body") from None
    if data is None:
        raise _invalid([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return adapter.validate_python(data, from_attributes=True)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)]
        raise _invalid(errors) from None


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Refused:
    count = len(errors)
    items = [{**error, "loc": _location(error["loc"]), "input": _shorten(error["input"])} for error in errors]
    lines = [f"  {item}" for item in items[:MAX_REPORTED]]
    label = "error" if count == 1 else "errors"
    if count > MAX_REPORTED:
        lines.append(f"  ...and {count - MAX_REPORTED} more {label}")
    message = "\n".join([f"{count} validation {label}:", *lines])
    return Refused(400, message, "Bad Request", items[0]["loc"])


def _location(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc if str(part) not in TYPES and not set("[]{}()") & set(str(part)))


def _shorten(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= INPUT_CHARS else text[:INPUT_CHARS] + "...[truncated]"
