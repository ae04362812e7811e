"""What vLLM 0.32 takes on its scoring routes, by models of the same fields: what it refuses is refused in its words.

Called by `scoring`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Required, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

SALT_CHARS = 128
NOT_IN_SALT = "@/\\\0"
MAX_REPORTED = 10
INPUT_CHARS = 200
# the parts of pydantic's locations that name types: vLLM leaves them out
TYPES = frozenset({"str", "int", "bool", "dict"})


class Refused(Exception):
    """An error answer: status, message, type, parameter."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": status}
        super().__init__(message)


class Unreadable(Exception):
    """A body that is no text; the answer is of another shape."""


class _Text(TypedDict, total=False):
    text: Required[str]
    type: Required[Literal["text"]]


class _Url(TypedDict, total=False):
    url: Required[str]


class _Image(TypedDict, total=False):
    image_url: Required[_Url]
    type: Required[Literal["image_url"]]


class ScoreMultiModalParam(TypedDict, total=False):
    """A text or an image in parts, as models of both take it."""

    content: Required[list[_Image | _Text]]


Input = str | ScoreMultiModalParam
Inputs = Input | list[Input]


class Request(BaseModel):
    """What all scoring requests have in common. Unknown properties are taken, and mean nothing."""

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
        return handler(data)  # vLLM logs unknown properties here; which model a union takes depends on its being there

    @property
    def pair(self) -> tuple[Inputs, Inputs]:
        """The two inputs, whatever they are called."""
        first, second = self.__class__.names()
        return getattr(self, first), getattr(self, second)

    @classmethod
    def names(cls) -> tuple[str, str]:
        first, second = (name for name, field in cls.model_fields.items() if field.is_required())
        return first, second


R = TypeVar("R", bound=Request)


class RerankRequest(Request):
    """One query, documents to rank."""

    query: Input
    documents: Inputs
    top_n: int = Field(default=0, ge=0)


class ScoreQueriesDocumentsRequest(Request):
    """Pairs of queries and documents."""

    queries: Inputs
    documents: Inputs


class ScoreQueriesItemsRequest(Request):
    """The same, by another name."""

    queries: Inputs
    items: Inputs


class ScoreDataRequest(Request):
    """The same, by another name."""

    data_1: Inputs
    data_2: Inputs


class ScoreTextRequest(Request):
    """The same, by the oldest name."""

    text_1: Inputs
    text_2: Inputs


RERANK: TypeAdapter[RerankRequest] = TypeAdapter(RerankRequest)
SCORES = (ScoreQueriesDocumentsRequest, ScoreQueriesItemsRequest, ScoreDataRequest, ScoreTextRequest)
SCORE: TypeAdapter[Request] = TypeAdapter(
    ScoreQueriesDocumentsRequest | ScoreQueriesItemsRequest | ScoreDataRequest | ScoreTextRequest
)


def parse(body: bytes, adapter: TypeAdapter[R]) -> R:
    """Return a request. Raises Refused."""
    try:
        asked = json.loads(body) if body else None
    except json.JSONDecodeError as error:
        raise _invalid([{
            "type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {},
            "ctx": {"error": error.msg},
        }]) from None  # fmt: skip
    except UnicodeDecodeError:
        raise Unreadable("There was an error parsing the body") from None
    if asked is None:
        raise _invalid([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return adapter.validate_python(asked, from_attributes=True)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise _invalid(errors) from None


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Refused:
    count = len(errors)
    shown = [{**one, "loc": _place(one["loc"]), "input": _input(one["input"])} for one in errors]
    lines = [f"  {one}" for one in shown[:MAX_REPORTED]]
    label = "error" if count == 1 else "errors"
    if count > MAX_REPORTED:
        lines.append(f"  ...and {count - MAX_REPORTED} more {label}")
    message = "\n".join([f"{count} validation {label}:", *lines])
    return Refused(400, message, "Bad Request", shown[0]["loc"])


def _place(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(one) for one in loc if str(one) not in TYPES and not set("[]{}()") & set(str(one)))


def _input(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= INPUT_CHARS else text[:INPUT_CHARS] + "...[truncated]"
