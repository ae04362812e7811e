"""Writes docs/configuration.md from the schema in Pulumi.yaml: `python -m scripts.configuration`, or `make docs`.

`--check` writes nothing and exits 1 when the file is not what the schema says. The schema's own section comments
(`# ---- title`) are the headings; secrets, which the schema cannot declare, are named here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[1]
TARGET = REPO / "docs" / "configuration.md"
# What tests hold against components.settings.SECRET_KEYS.
SECRETS: Mapping[str, str] = {
    "vast_api_key": "The Vast.ai key. `VAST_API_KEY` in the environment comes first (for an emulator, last), "
    "so that no state has to hold it",
    "api_key": "What clients of the reranker present; made at random if not given",
    "api_key_previous": "A second key that is still valid, for the time of a change",
    "hub_token": "The model hub's token, for gated models",
    "gateway_admin_key": "What the admin API of a Caddy asks for, where it is behind a key",
    "image_login": 'The login of a private registry: "-u USER -p TOKEN REGISTRY"',
}
HEAD = """\
# Configuration

Keys of `Pulumi.<stack>.yaml`, in the namespace `vast-reranker:`. This page is made from the schema in `Pulumi.yaml` by
`make docs`; a test compares the two. The engine refuses a wrong type; the program then reads all values at once and
names every bad one by its key, with what is accepted, before anything is rented. An unknown key is an error too.

```console
$ pulumi config set max_dph_usd 0.30                 # a value
$ pulumi config set --path 'countries[0]' SE         # the first of a list
$ pulumi config set --secret hub_token               # asks for it; --secret is not optional for secrets
```

Numbers with a fraction are strings in YAML (`"0.25"`), since the schema knows whole numbers only. What each environment
sets is in [environments.md](environments.md), what the rules of the policy say in
`policy/rules.py`.
"""


def sections(text: str) -> list[tuple[str, list[str]]]:
    """Return the headings of the schema with their keys, in the order of the file."""
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\nconfig:\n", 1)[1].splitlines():
        if heading := re.match(r"  # ---- (.+)", line):
            found.append((heading[1], []))
        elif key := re.match(r"  (\w+):", line):
            found[-1][1].append(key[1])
    return found


def reference(text: str) -> str:
    """Return the page for a Pulumi.yaml."""
    schema: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)["config"]
    parts = [HEAD]
    for heading, keys in sections(text):
        rows = [_row(key, schema[key]) for key in keys]
        parts.append("\n".join([f"## {heading[0].upper()}{heading[1:]}\n", *_table(rows)]) + "\n")
    secret = [(f"`{key}`", "string", "", what) for key, what in SECRETS.items()]
    head = "## Secrets\n\nOptional, and refused where they are stored in clear.\n"
    parts.append("\n".join([head, *_table(secret)]) + "\n")
    return "\n".join(parts)


def _row(key: str, one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    kind = f"list of {one['items']['type']}s" if one["type"] == "array" else str(one["type"])
    default = "" if one["default"] in ("", []) else f"`{one['default']}`"
    return f"`{key}`", kind, default, str(one["description"]).replace("|", "\\|")


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    return ["| key | type | default | what |", "| --- | --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.configuration", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page is out of date")
    check = parser.parse_args().check
    page = reference((REPO / "Pulumi.yaml").read_text(encoding="utf-8"))
    if not check:
        TARGET.write_text(page, encoding="utf-8")
        print(f"{TARGET.relative_to(REPO)}: written")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == page:
        return 0
    print(f"{TARGET.relative_to(REPO)} is not what Pulumi.yaml says; run `make docs` and commit it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
