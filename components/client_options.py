"""What the config says of a client's key, and how a text of it is checked. Called by `config` and `clients`."""

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
    """Return a check that a whole text, a secret too, matches; `accepted`: what the error says."""

    def check(value: str | SecretStr) -> str | SecretStr:
        if not re.fullmatch(pattern, value if isinstance(value, str) else value.get_secret_value(), re.DOTALL):
            raise PydanticCustomError("form", f"accepted: {accepted}")
        return value

    return AfterValidator(check)


def _not_taken(name: str) -> str:
    if name in (MANAGEMENT, DEFAULT):
        raise PydanticCustomError("form", f"{name} is the name of a key that every stack has")
    return name


DEFAULT = "default"  # the name of `api_key`
ClientName = Annotated[str, form(NAME.pattern, "names such as search or batch-2"), AfterValidator(_not_taken)]
# YAML has dates; what the engine makes of one without quotes is Go's text of a time
Day = Annotated[date, BeforeValidator(lambda given: str(given).removesuffix(" 00:00:00 +0000 UTC"))]
Route = Annotated[str, form("|".join(ALLOW), f"among {', '.join(ALLOW)}")]


class ClientOptions(Keys):
    """What the key of one client is good for."""

    expires: Day | None = Field(None, description="The day, in UTC, from whose beginning on it is refused")
    requests_per_s: float | None = Field(None, ge=0.001, description="More get 429; on each server")
    pairs_per_min: float | None = Field(None, ge=0.1, description="More get 429; on each server")
    routes: tuple[Route, ...] = Field((), description="The routes that it opens; without them all that clients have")
    generation: int = Field(1, ge=1, description="Counts the keys of this name; another number: another key")
    keep_previous: bool = Field(False, description="The key of the generation before is valid too")
