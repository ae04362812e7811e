"""`python -m scripts.pack`: packs the guard and the models' chat templates into components/packed.json.

To be run when components/vllm/guard.py or a chat template of the catalog changes; every running stack with a guard is
then replaced by its next `up`, since its container runs another file. `--check` only compares.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from components.packed import GUARD, PACKED_FILE, TEMPLATE_FILE, pack, unpacked
from components.vllm.catalog import load_catalog

GUARD_FILE = Path(__file__).resolve().parents[1] / "components" / "vllm" / "guard.py"


def sources() -> dict[str, dict[str, str]]:
    """Return what is to be packed: blob -> file -> text."""
    files = {GUARD: {GUARD: without_words(GUARD_FILE.read_text())}}
    for model in load_catalog().models.values():
        if model.chat_template is not None:
            # a text file ends in a newline, which Jinja drops again
            files[model.name] = {TEMPLATE_FILE: model.chat_template.removesuffix("\n") + "\n"}
    return files


def without_words(source: str) -> str:
    """Return Python source as it runs, without docstrings, comments and annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(tree) + "\n"


def stale(wanted: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the blobs that are missing, not wanted, or packed from something else.

    Compared by what the guard's source means, as `ast.unparse` of another Python may write it otherwise.
    """
    kept = set(json.loads(PACKED_FILE.read_text())) if PACKED_FILE.exists() else set()
    wrong = set(wanted) ^ kept
    for name in set(wanted) & kept:
        files = unpacked(name)
        if name == GUARD:
            same = ast.dump(ast.parse(files[GUARD])) == ast.dump(ast.parse(wanted[GUARD][GUARD]))
        else:
            same = files == wanted[name]
        wrong |= set() if same else {name}
    return sorted(wrong)


def main() -> int:
    """Pack what is stale, or name it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.pack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something is out of date")
    check = parser.parse_args().check
    wanted = sources()
    wrong = stale(wanted)
    if not wrong:
        return 0
    if check:
        print(f"packed.json is out of date for {', '.join(wrong)}: python -m scripts.pack", file=sys.stderr)
        return 1
    PACKED_FILE.write_text(json.dumps({name: pack(files) for name, files in sorted(wanted.items())}, indent=1) + "\n")
    print(f"packed anew: {', '.join(wrong)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
