"""Which module may import which: no circle anywhere, and two packages that know nothing of the stack."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "chaos", "components", "emulator", "harness", "ops", "policy", "reranker")


def modules():
    """Every module of the packages, by name."""
    paths = [path for package in PACKAGES for path in (REPO / package).rglob("*.py")]
    return {".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name, path):
    """The names that a module imports anywhere, also inside functions and for type checks, as absolute names."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def graph():
    """Each module with those of ours that it imports. A package's own __init__ does not count for its modules."""
    known = modules()
    return {name: (imports(name, path) & known.keys()) - {name} for name, path in known.items()}


def test_no_module_imports_itself_by_way_of_others():
    found = {name: {one for one in uses if not name.startswith(f"{one}.")} for name, uses in graph().items()}
    try:
        tuple(TopologicalSorter(found).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("package", ["emulator", "reranker"])
def test_a_package_of_its_own_imports_nothing_of_the_stack(package):
    foreign = {path.parent.name for path in REPO.glob("*/__init__.py")} - {package}
    own = {name: imports(name, path) for name, path in modules().items() if name.split(".")[0] == package}
    assert own
    assert {(name, used) for name, uses in own.items() for used in uses if used.split(".")[0] in foreign} == set()


def test_nothing_imports_tests():
    uses = {name: {one.split(".")[0] for one in imports(name, path)} for name, path in modules().items()}
    assert [name for name, packages in uses.items() if "tests" in packages] == []
