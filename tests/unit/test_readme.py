"""The tables of the README and of docs/ are the code's tables."""

import re
from pathlib import Path

from components.config import Config
from components.vast import change, drift

REPO = Path(__file__).resolve().parents[2]
README = "\n".join(path.read_text() for path in (REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))))


def in_code_marks():
    return {word for code in re.findall(r"`([^`\n]+)`", README) for word in re.findall(r"[\w-]+", code)}


def test_every_kind_of_drift_is_in_the_readme_or_the_docs():
    assert set(drift.TABLE) <= in_code_marks()


def test_every_input_whose_change_has_an_effect_is_in_the_readme_or_the_docs():
    assert set(change.TABLE) <= in_code_marks()


def test_every_config_key_is_in_the_readme_or_the_docs():
    assert set(Config.model_fields) <= in_code_marks()


def test_the_readme_says_the_licence_a_price_and_where_this_has_run():
    said = " ".join((REPO / "README.md").read_text().split())
    assert "[Apache-2.0](LICENSE)" in said
    assert "Apache License" in (REPO / "LICENSE").read_text()
    assert re.search(r"about \$\d\.\d\d an hour", said)
    assert "This project has not run on the real Vast.ai yet" in said
