"""A stack's config read into its model, and every wrong value named with what is accepted. Pure.

Called by components.settings and ops.scale; scripts.configuration takes its words for what a key takes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from components.config import YAML_WORD, Config, groups, has_secret, is_group, is_list, is_map, names_of


def read(raw: Mapping[str, str]) -> tuple[Config, list[str]]:
    """Return the config of a stack and what is wrong with it, a key a line; a wrong value is then its default.

    `raw`: by key as Pulumi gives it to a program, so lists and objects are JSON text.
    """
    values: dict[str, Any] = {}
    problems = []
    for key, text in raw.items():
        field = Config.model_fields.get(key)
        is_object = key in groups() or (field is not None and is_map(field))
        also = key in groups() and groups()[key].also
        kind = (
            f"{also} or an object"
            if also
            else "an object"
            if is_object
            else "a list"
            if field is not None and is_list(field)
            else ""
        )
        try:
            values[key] = json.loads(text or "null") if kind else text
        except ValueError:
            problems.append(f"{key}: is not {kind}")
    values = _without_empty(values)
    while True:
        try:
            return Config.model_validate(values), problems
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                if (problem := _problem(detail)) not in problems:  # a union names each of its members
                    problems.append(problem)
                _drop(values, detail["loc"])


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_empty(one) for key, one in value.items() if one is not None and str(one).strip() != ""}
    return value


def _drop(values: dict[str, Any], loc: tuple[int | str, ...]) -> None:
    """Remove a wrong value; of a list, the whole of it."""
    key = str(loc[0])
    inside = values.get(key)
    if len(loc) > 1 and key in groups() and isinstance(inside, dict) and loc[1] in inside:
        del inside[loc[1]]
    else:
        values.pop(key, None)


def _problem(detail: ErrorDetails) -> str:
    loc = detail["loc"]
    kind = groups().get(str(loc[0])) if len(loc) > 1 else None
    model, name = (kind, str(loc[1])) if kind else (Config, str(loc[0]))
    key = f"{loc[0]}.{name}" if kind else name
    field = model.model_fields.get(name)
    if field is None:
        near = difflib.get_close_matches(name, model.model_fields, 1)
        return f"{key}: is not a config key" + (f"; did you mean {near[0]}?" if near else "")
    shown = "(it is not shown)" if has_secret(field) else repr(detail["input"])
    hint = YAML_WORD if isinstance(detail["input"], bool) and detail["type"] == "string_type" else ""
    accepted = detail["msg"] if detail["type"] == "form" else f"accepted: {kind_of(field)}"
    return f"{key}: is {shown}; {accepted}{hint}"


def kind_of(field: FieldInfo) -> str:
    """Say in words what a key takes."""
    kind = field.annotation
    if is_group(kind):
        return f"{kind.also}{', or ' if kind.also else ''}an object of {', '.join(names_of(kind))}"
    if is_list(field):
        inner = get_args(kind)[0]
        return f"a list of objects of {', '.join(names_of(inner))}" if is_group(inner) else "a list of strings"
    if is_map(field):
        return "an object of names and values" + (", each a secret" if has_secret(field) else "")
    kinds = get_args(kind) if get_origin(kind) not in (Literal, None) else (kind,)
    return " or ".join(text for one in kinds if (text := _word(one, field)))


def _word(kind: Any, field: FieldInfo) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(str(one) for one in get_args(kind))
    if get_origin(kind) is Annotated:
        inner, *rest = get_args(kind)
        bounded = next((one for one in rest if isinstance(one, FieldInfo)), field)
        return _word(inner, bounded)
    bounds = {type(one).__name__: one for one in field.metadata}
    low, high = getattr(bounds.get("Ge"), "ge", None), getattr(bounds.get("Le"), "le", None)
    span = "" if low is None else f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
    return {bool: "true or false", int: f"a whole number{span}", float: f"a number{span}", str: "text"}.get(
        kind, "a secret" if kind is SecretStr else ""
    )
