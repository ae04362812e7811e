"""Reads a stack's config into its model; lists each wrong value with the accepted ones. Pure.

Called by components.settings and ops.scale.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from components.config import YAML_WORD, Config, groups
from components.config_keys import Keys, describe_type, groups_of, has_secret, is_list, is_map, value_model


def read(raw: Mapping[str, str]) -> tuple[Config, list[str]]:
    """Return the config of a stack and its problems, one line for each key. A wrong value is replaced by its default.

    `raw`: the values as Pulumi passes them to a program; lists and objects are JSON text.
    """
    values: dict[str, Any] = {}
    problems = []
    for key, text in raw.items():
        kind = _json_kind(key)
        try:
            values[key] = json.loads(text or "null") if kind else text
        except ValueError:
            problems.append(f"{key}: is not {kind}")
            continue
        if value_model(Config.model_fields.get(key)) and isinstance(values[key], dict):  # a name without a value
            values[key] = {name: {} if value is None else value for name, value in values[key].items()}
    values = _without_empty(values)
    while True:
        try:
            return Config.model_validate(values), problems
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                if (problem := _problem(detail)) not in problems:  # a union reports each of its members
                    problems.append(problem)
                _drop(values, detail["loc"])


def _json_kind(key: str) -> str:
    """Return the accepted JSON type of a key; "" for a key with plain text."""
    if group := groups().get(key):
        return f"{group.also} or an object" if group.also else "an object"
    if (field := Config.model_fields.get(key)) is None:
        return ""
    return "an object" if is_map(field) else "a list" if is_list(field) else ""


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = value.items()
        return {key: _without_empty(item) for key, item in items if item is not None and str(item).strip() != ""}
    return value


def _drop(values: dict[str, Any], loc: tuple[int | str, ...]) -> None:
    """Remove a wrong value; a list with a wrong item is removed completely."""
    key = str(loc[0])
    group = values.get(key)
    if len(loc) > 1 and key in groups() and isinstance(group, dict) and loc[1] in group:
        del group[loc[1]]
    else:
        values.pop(key, None)


def _problem(detail: ErrorDetails) -> str:
    path = [str(part) for part in detail["loc"]]
    model: type[Keys] = Config
    depth = 1
    while depth < len(path):
        name, in_value = path[depth - 1], path[depth + 1 :][:1] not in ([], ["[key]"])
        if inner := groups_of(model).get(name):
            model, depth = inner, depth + 1
        elif in_value and (inner := value_model(model.model_fields.get(name))):
            model, depth = inner, depth + 2
        else:
            break
    key, name = ".".join(path[:depth]), path[depth - 1]
    field = model.model_fields.get(name)
    if field is None:
        near = difflib.get_close_matches(name, model.model_fields, 1)
        return f"{key}: is not a config key" + (f"; did you mean {near[0]}?" if near else "")
    if detail["type"] == "missing" and len(path) > depth:  # of an object in a list
        return f"{'.'.join(path)}: is not given; accepted in {key}: {describe_type(field)}"
    if detail["type"] == "missing":
        return f"{key}: is not given; accepted: {describe_type(field)}"
    group = groups_of(model).get(name)
    is_secret = has_secret(field) or (group is not None and any(map(has_secret, group.model_fields.values())))
    value = "(it is not shown)" if is_secret else repr(detail["input"])
    hint = YAML_WORD if isinstance(detail["input"], bool) and detail["type"] == "string_type" else ""
    accepted = detail["msg"] if detail["type"] == "form" else f"accepted: {describe_type(field)}"
    return f"{key}: is {value}; {accepted}{hint}"
