"""The config of a client's key, and the check of its texts. Called by `config` and `clients`."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from components.config_keys import Keys
from components.guard.keys import MANAGEMENT, NAME
from components.guard.rules import ALLOW


def form(pattern: str, accepted: str) -> AfterValidator:
    """Return a check that a text or secret matches `pattern`; the error contains `accepted`."""

    def check(value: str | SecretStr) -> str | SecretStr:
        if not re.fullmatch(pattern, value if isinstance(value, str) else value.get_secret_value(), re.DOTALL):
            raise PydanticCustomError("form", f"accepted: {accepted}")
        return value

    return AfterValidator(check)


def _check_reserved(name: str) -> str:
    if name in (MANAGEMENT, DEFAULT):
        raise PydanticCustomError("form", f"{name} is the name of a key that every stack has")
    return name


DEFAULT = "default"  # the name of `api_key`
ClientName = Annotated[str, form(NAME.pattern, "names such as search or batch-2"), AfterValidator(_check_reserved)]
# the engine turns a YAML date without quotes into Go's text form of a time
Day = Annotated[date, BeforeValidator(lambda text: str(text).removesuffix(" 00:00:00 +0000 UTC"))]
Route = Annotated[str, form("|".join(ALLOW), f"among {', '.join(ALLOW)}")]


class ClientOptions(Keys):
    """Limits and rotation of one client's key."""

    expires: Day | None = Field(None, description="The key is refused from the start of this day, in UTC")
    requests_per_s: float | None = Field(None, ge=0.001, description="Requests per second and server; above it: 429")
    pairs_per_min: float | None = Field(None, ge=0.1, description="Pairs per minute and server; above it: 429")
    routes: tuple[Route, ...] = Field((), description="Allowed routes; default: all client routes")
    generation: int = Field(1, ge=1, description="Number of the key of this name; a new number makes a new key")
    keep_previous: bool = Field(False, description="Keep the key of the previous generation valid")
