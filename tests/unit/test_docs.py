"""The docs say what the code says."""

import re
from pathlib import Path

import pytest

from components.config import Config, groups, inner_groups
from components.config_keys import value_model
from components.vast.drift import TABLE
from policy.rules import RULES
from scripts.configuration import ARGS, PAGE, PROJECT, arguments, page, project

REPO = Path(__file__).resolve().parents[2]
DOCS = {path.name: path.read_text() for path in (REPO / "docs").glob("*.md")}
CODE = "\n".join(
    path.read_text() for folder in ("components", "ops", "policy") for path in (REPO / folder).rglob("*.py")
)


def test_schema_and_reference_are_what_the_model_of_the_keys_says():
    assert PROJECT.read_text() == project(), "run `make docs`"
    assert PAGE.read_text() == page(), "run `make docs`"
    assert ARGS.read_text() == arguments(), "run `make docs`"


def test_the_reference_has_every_key():
    kinds = (
        *groups().values(),
        *inner_groups().values(),
        *filter(None, map(value_model, Config.model_fields.values())),
    )
    keys = {*Config.model_fields, *(key for kind in kinds for key in kind.model_fields)}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.M)) == keys


def test_every_rule_of_the_policy_is_in_the_docs():
    for rule in RULES:
        assert f"`{rule.name}`" in DOCS["environments.md"], rule.name


def test_every_output_of_the_stack_is_in_the_docs():
    exported = re.findall(r'^pulumi\.export\("(\w+)"', (REPO / "__main__.py").read_text(), re.M)
    assert exported
    for name in exported:
        assert re.search(rf"^\|[^|]*`{name}`", DOCS["outputs.md"], re.M), name


def test_every_kind_of_drift_has_a_runbook():
    for kind in TABLE:
        assert f"`{kind}`" in DOCS["operations.md"], kind


OF_THE_ENGINE = (
    "the stack is currently locked by 1 lock(s)", "because it is protected", "failed to save snapshot",
    "failed to load checkpoint",
)  # fmt: skip
QUOTED = re.findall(r"^> (.+)$", DOCS["operations.md"] + DOCS["state.md"], re.M)


@pytest.mark.parametrize("symptom", QUOTED)
def test_every_symptom_that_a_runbook_quotes_is_printed_by_the_code(symptom):
    # "…" stands for what differs; each piece between is literally in the code, or among the engine's own words
    for chunk in (part.strip() for part in symptom.split("…")):
        assert chunk in CODE or chunk in OF_THE_ENGINE, chunk
