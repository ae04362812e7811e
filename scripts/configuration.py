"""Writes the section `config:` of Pulumi.yaml, docs/configuration.md and package/args.py from components/config.py.

`make docs`, or `python -m scripts.configuration`. tests/unit/test_docs.py says where a file is not what it should be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from components.component_args import FROM_CONFIG
from components.config import SECRETS, Config, groups
from components.config_keys import Keys, each_of, has_secret, is_list, is_map, kind_of

REPO = Path(__file__).resolve().parents[1]
PROJECT, PAGE, ARGS = REPO / "Pulumi.yaml", REPO / "docs" / "configuration.md", REPO / "package" / "args.py"
ARGS_HEAD = '''\
"""The arguments of the component, made from components/config.py by `make docs`. Imported by __main__.py."""

from typing import TypedDict
'''
MARK = "config: # made from components/config.py by `make docs`\n"
HEAD = """\
# Configuration

Keys of `Pulumi.<stack>.yaml`. This page and the schema in `Pulumi.yaml` are made from `components/config.py` by
`make docs`; a test compares them. The engine refuses a wrong type; the program then reads all values at once and names
every bad one by its key, with what is accepted, before anything is rented. An unknown key is an error too.

```console
$ pulumi config set max_dph_usd 0.30                        # a value
$ pulumi config set --path timeouts.stall_s 600             # a key of a group; the others keep their defaults
$ pulumi config set --path 'require.countries[0]' SE        # the first of a list
$ pulumi config set --secret hub_token                      # asks for it; --secret is not optional for secrets
```

Keys may be written with the project's name before them (`vast-reranker:model`), as `pulumi config set` does, or
without. `true`, `false`, `on` and `off` mean what they say, quoted or not. What each environment sets is in
[environments.md](environments.md), what the rules of the policy say in `policy/rules.py`.
"""


def schema() -> dict[str, Any]:
    """Return the section for Pulumi.yaml. Secrets are not in it: it cannot say that a key is optional and secret."""
    return {key: _declared(key, field) for key, field in Config.model_fields.items() if not has_secret(field)}


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
    """Return Pulumi.yaml with the schema of today in it."""
    before = PROJECT.read_text(encoding="utf-8").partition("\nconfig:")[0]
    body = yaml.safe_dump(schema(), sort_keys=False, width=1000, allow_unicode=True)
    return f"{before}\n{MARK}" + "".join(f"  {line}\n" for line in body.splitlines())


def page() -> str:
    """Return docs/configuration.md."""
    sections: dict[str, list[tuple[str, FieldInfo]]] = {}
    for key, field in Config.model_fields.items():
        extra = field.json_schema_extra
        sections.setdefault(str(extra["section"]) if isinstance(extra, dict) else "", []).append((key, field))
    parts = [HEAD]
    for title, fields in sections.items():
        head = f"## {title[0].upper()}{title[1:]}\n"
        if title == SECRETS:
            head += "\nOptional, and refused where they are stored in clear.\n"
        parts.append("\n".join([head, *_table(fields)]) + "\n")
        for key, field in fields:
            if kind := groups().get(key) or each_of(field):
                head = f"### `{key}`\n\n{field.description}.\n"
                parts.append("\n".join([head, *_table(list(kind.model_fields.items()))]) + "\n")
    return "\n".join(parts)


def _table(fields: list[tuple[str, FieldInfo]]) -> list[str]:
    rows = ["| key | takes | default | what |", "| --- | --- | --- | --- |"]
    for key, field in fields:
        default = "" if isinstance(field.default, Keys | tuple | dict) else _text(field.default)
        takes = "an object, see below" if key in groups() else kind_of(field)
        rows.append(f"| `{key}` | {takes} | {f'`{default}`' if default else ''} | {field.description} |")
    return rows


def arguments() -> str:
    """Return package/args.py: a key that holds no secret, and is not heard from the config, is an argument."""
    each = {key: kind for key, field in Config.model_fields.items() if (kind := each_of(field))}
    kinds = {_class(key): kind for key, kind in (groups() | each).items() if key not in FROM_CONFIG}
    classes = [
        *(_typed_dict(name, str(kind.__doc__), kind.model_fields) for name, kind in kinds.items()),
        _typed_dict("RerankerArgs", "What the component takes; see docs/configuration.md.", Config.model_fields),
    ]
    return "\n\n".join([ARGS_HEAD, *classes])


def _typed_dict(name: str, text: str, fields: dict[str, FieldInfo]) -> str:
    lines = [f"class {name}(TypedDict, total=False):", f'    """{text}"""', ""]
    for key, field in fields.items():
        if not has_secret(field) and key not in FROM_CONFIG:
            lines += [f"    {key}: {_python_type(key, field)}", f'    """{field.description}."""']
    return "\n".join(lines) + "\n"


def _class(key: str) -> str:
    return f"{key.title().replace('_', '')}Args"


def _python_type(key: str, field: FieldInfo) -> str:
    """Return an annotation that Pulumi's schema knows: no union, no literal."""
    if key in groups():
        return _class(key)
    if is_list(field):
        return "list[str]"
    if is_map(field):
        return f"dict[str, {_class(key) if each_of(field) else 'str'}]"
    kinds = {one for one in (field.annotation, *get_args(field.annotation)) if one in (bool, int, float)}
    return kinds.pop().__name__ if kinds else "str"


def main() -> None:
    """Write the files."""
    for path, text in ((PROJECT, project()), (PAGE, page()), (ARGS, arguments())):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
