"""What a config key is: a group of keys, whether it is secret, and what it takes, in words.

Called by `config`, which declares them all, by `config_reading` and scripts/configuration.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic.fields import FieldInfo


class Keys(BaseModel):
    """A group of keys. Unknown ones are refused; an empty value is none."""

    also: ClassVar[str] = ""  # what may stand for the whole group, in words
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)


def groups_of(model: type[Keys]) -> dict[str, type[Keys]]:
    """Return the keys of a model that are objects, with their models."""
    return {
        key: one
        for key, field in model.model_fields.items()
        for one in (field.annotation, *get_args(field.annotation))
        if not is_list(field) and not is_map(field) and isinstance(one, type) and issubclass(one, Keys)
    }


def has_secret(field: FieldInfo) -> bool:
    """Whether a key's value is never shown and has to be stored encrypted."""
    return "SecretStr" in str(field.annotation) or "SecretStr" in str(get_args(field.annotation))


def is_list(field: FieldInfo) -> bool:
    """Whether a key's value is a list."""
    return get_origin(field.annotation) is tuple


def is_map(field: FieldInfo) -> bool:
    """Whether a key's value is an object with names of the user's own."""
    return get_origin(field.annotation) is Mapping


def value_model(field: FieldInfo | None) -> type[Keys] | None:
    """Return the model of each value, where a key is a map of objects."""
    kind = get_args(field.annotation)[1] if field is not None and is_map(field) else None
    return kind if isinstance(kind, type) and issubclass(kind, Keys) else None


def describe_type(field: FieldInfo) -> str:
    """Say in words what a key takes."""
    kind = field.annotation
    if is_list(field):
        inner = get_args(kind)[0]
        is_group = isinstance(inner, type) and issubclass(inner, Keys)
        return f"a list of objects of {', '.join(_names(inner))}" if is_group else "a list of strings"
    if value_model(field):
        return "an object of names, each with the keys below or none"
    if is_map(field):
        return "an object of names and values" + (", each a secret" if has_secret(field) else "")
    kinds = get_args(kind) if get_origin(kind) not in (Literal, None) else (kind,)
    return " or ".join(text for one in kinds if (text := _word(one, field)))


def _names(kind: type[Keys]) -> list[str]:
    """Return the keys of a group, as they are written in a file."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def _word(kind: Any, field: FieldInfo) -> str:
    if isinstance(kind, type) and issubclass(kind, Keys):
        return f"{kind.also}{', or ' if kind.also else ''}an object of {', '.join(_names(kind))}"
    if get_origin(kind) is Literal:
        return ", ".join(str(one) for one in get_args(kind))
    if get_origin(kind) is Annotated:
        inner, *rest = get_args(kind)
        bounded = next((one for one in rest if isinstance(one, FieldInfo)), field)
        return _word(inner, bounded)
    bounds = {type(one).__name__: one for one in field.metadata}
    low, high = getattr(bounds.get("Ge"), "ge", None), getattr(bounds.get("Le"), "le", None)
    span = "" if low is None else f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
    words = {bool: "true or false", int: f"a whole number{span}", float: f"a number{span}", str: "text"}
    return (words | {date: "a date such as 2027-01-31", SecretStr: "a secret"}).get(kind, "")
