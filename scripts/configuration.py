"""Writes the section `config:` of Pulumi.yaml, docs/configuration.md and package/args.py from components/config.py.

`make docs`, or `python -m scripts.configuration`. tests/unit/test_docs.py fails if a file is out of date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from components.component_args import FROM_CONFIG, OF_STACKS
from components.config import SECRETS, Config, groups, inner_groups
from components.config_keys import Keys, describe_type, has_secret, is_list, is_map, value_model

REPO = Path(__file__).resolve().parents[1]
PROJECT, PAGE, ARGS = REPO / "Pulumi.yaml", REPO / "docs" / "configuration.md", REPO / "package" / "args.py"
ARGS_HEAD = '''\
"""The arguments of the component, made from components/config.py by `make docs`. Imported by __main__.py."""

from typing import TypedDict
'''
MARK = "config: # made from components/config.py by `make docs`\n"


def schema() -> dict[str, Any]:
    """Return the section for Pulumi.yaml, without secrets and unions, because Pulumi.yaml cannot express optional
    secrets, or keys that are a number or an object."""
    fields = {key: field for key, field in Config.model_fields.items() if not has_secret(field)}
    return {key: _declared(key, field) for key, field in fields.items() if not _also(key)}


def _also(key: str) -> str:
    return groups()[key].also if key in groups() else ""


def _declared(key: str, field: FieldInfo) -> dict[str, Any]:
    text = str(field.description)
    if key in groups():
        return {"type": "object", "default": {}, "description": f"{text}: {', '.join(groups()[key].model_fields)}"}
    if is_list(field):
        return {"type": "array", "items": {"type": "string"}, "default": [], "description": text}
    if is_map(field):
        return {"type": "object", "default": {}, "description": text}
    if field.annotation is int:
        return {"type": "integer", "default": field.default, "description": text}
    return {"type": "string", "default": _text(field.default), "description": text}


def _text(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, int | float) else default


def project() -> str:
    """Return Pulumi.yaml with the current schema."""
    before = PROJECT.read_text(encoding="utf-8").partition("\nconfig:")[0]
    body = yaml.safe_dump(schema(), sort_keys=False, width=1000, allow_unicode=True)
    return f"{before}\n{MARK}" + "".join(f"  {line}\n" for line in body.splitlines())


def page() -> str:
    """Return docs/configuration.md with the current keys; the text above its first section is written by hand."""
    sections: dict[str, list[tuple[str, FieldInfo]]] = {}
    for key, field in Config.model_fields.items():
        extra = field.json_schema_extra
        sections.setdefault(str(extra["section"]) if isinstance(extra, dict) else "", []).append((key, field))
    parts = [PAGE.read_text(encoding="utf-8").partition("\n## ")[0]]
    for title, fields in sections.items():
        head = f"## {title[0].upper()}{title[1:]}\n"
        if title == SECRETS:
            head += "\nOptional; they must be stored encrypted.\n"
        parts.append("\n".join([head, *_table(fields)]) + "\n")
        for key, field in fields:
            if kind := groups().get(key) or value_model(field):
                parts.append(_group(key, str(field.description), kind))
                inner = {part: inner_groups()[part] for part in kind.model_fields if part in inner_groups()}
                parts += [_group(f"{key}.{part}", str(keys.__doc__), keys) for part, keys in inner.items()]
    return "\n".join(parts)


def _group(name: str, text: str, kind: type[Keys]) -> str:
    head = f"### `{name}`\n\n{text.removesuffix('.')}.\n"
    return "\n".join([head, *_table(list(kind.model_fields.items()))]) + "\n"


def _table(fields: list[tuple[str, FieldInfo]]) -> list[str]:
    rows = ["| key | takes | default | what |", "| --- | --- | --- | --- |"]
    for key, field in fields:
        none = field.is_required() or isinstance(field.default, Keys | tuple | dict)
        default = "" if none else _text(field.default)
        also = f"{_also(key)}, or " if _also(key) else ""
        takes = f"{also}an object, see below" if key in groups() else describe_type(field)
        rows.append(f"| `{key}` | {takes} | {f'`{default}`' if default else ''} | {field.description} |")
    return rows


def arguments() -> str:
    """Return package/args.py. Each key is an argument, except for secrets and keys that are read from the config."""
    values = {key: kind for key, field in Config.model_fields.items() if (kind := value_model(field))}
    outer = {key: kind for key, kind in groups().items() if key not in (*FROM_CONFIG, *OF_STACKS) and not kind.also}
    kinds = {_class_of(key): kind for key, kind in (inner_groups() | values | outer).items() if key not in FROM_CONFIG}
    classes = [
        *(_typed_dict(name, str(kind.__doc__), kind.model_fields) for name, kind in kinds.items()),
        _typed_dict("RerankerArgs", "What the component takes; see docs/configuration.md.", Config.model_fields),
    ]
    return "\n\n".join([ARGS_HEAD, *classes])


def _typed_dict(name: str, text: str, fields: dict[str, FieldInfo]) -> str:
    lines = [f"class {name}(TypedDict, total=False):", f'    """{text}"""', ""]
    for key, field in fields.items():
        if not has_secret(field) and key not in (*FROM_CONFIG, *OF_STACKS):
            lines += [f"    {key}: {_python_type(key, field)}", f'    """{field.description}."""']
    return "\n".join(lines) + "\n"


def _python_type(key: str, field: FieldInfo) -> str:
    """Return an annotation that Pulumi's schema supports: no unions and no literals."""
    if _also(key):
        return "int"
    if key in inner_groups() | groups():
        return _class_of(key)
    if is_list(field):
        return "list[str]"
    if is_map(field):
        return f"dict[str, {_class_of(key) if value_model(field) else 'str'}]"
    types = {type_ for type_ in (field.annotation, *get_args(field.annotation)) if type_ in (bool, int, float)}
    return types.pop().__name__ if types else "str"


def _class_of(key: str) -> str:
    return f"{key.title().replace('_', '')}Args"


if __name__ == "__main__":
    for path, text in ((PROJECT, project()), (PAGE, page()), (ARGS, arguments())):
        path.write_text(text, encoding="utf-8")
