"""Properties of config keys: groups, secrets, and the accepted values in words.

Called by `config`, which declares all keys, by `config_reading` and scripts/configuration.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic.fields import FieldInfo


class Keys(BaseModel):
    """A group of keys. Unknown keys are refused; an empty value counts as missing."""

    also: ClassVar[str] = ""  # the value that is accepted instead of an object, in words
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)


def groups_of(model: type[Keys]) -> dict[str, type[Keys]]:
    """Return the keys of a model that are objects, with their models."""
    return {
        key: kind
        for key, field in model.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        if not is_list(field) and not is_map(field) and isinstance(kind, type) and issubclass(kind, Keys)
    }


def has_secret(field: FieldInfo) -> bool:
    """Whether a key's value is never printed and must be stored encrypted."""
    return "SecretStr" in str(field.annotation) or "SecretStr" in str(get_args(field.annotation))


def is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def is_map(field: FieldInfo) -> bool:
    """Whether a key's value is an object whose names the user chooses."""
    return get_origin(field.annotation) is Mapping


def value_model(field: FieldInfo | None) -> type[Keys] | None:
    """Return the model of the values if a key is a map of objects."""
    kind = get_args(field.annotation)[1] if field is not None and is_map(field) else None
    return kind if isinstance(kind, type) and issubclass(kind, Keys) else None


def describe_type(field: FieldInfo) -> str:
    """Return the accepted values of a key, in words."""
    kind = field.annotation
    if is_list(field):
        inner = get_args(kind)[0]
        is_group = isinstance(inner, type) and issubclass(inner, Keys)
        return f"a list of objects of {', '.join(_names(inner))}" if is_group else "a list of strings"
    if value_model(field):
        return "an object of names, each with keys as below or empty"
    if is_map(field):
        return "an object of names and values" + (", each a secret" if has_secret(field) else "")
    kinds = get_args(kind) if get_origin(kind) not in (Literal, None) else (kind,)
    return " or ".join(text for item in kinds if (text := _describe(item, field)))


def _names(kind: type[Keys]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _describe(kind: Any, field: FieldInfo) -> str:
    if isinstance(kind, type) and issubclass(kind, Keys):
        return f"{kind.also}{', or ' if kind.also else ''}an object of {', '.join(_names(kind))}"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is Annotated:
        inner, *metadata = get_args(kind)
        return _describe(inner, next((item for item in metadata if isinstance(item, FieldInfo)), field))
    bounds = {type(item).__name__: item for item in field.metadata}
    low, high = getattr(bounds.get("Ge"), "ge", None), getattr(bounds.get("Le"), "le", None)
    span = "" if low is None else f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
    words = {bool: "true or false", int: f"a whole number{span}", float: f"a number{span}", str: "text"}
    return (words | {date: "a date such as 2027-01-31", SecretStr: "a secret"}).get(kind, "")
