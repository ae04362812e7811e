"""The stack files that ship: each loads with the defaults of Pulumi.yaml, and obeys the policy that it sets itself."""

import json
from pathlib import Path

import pytest
import yaml

from components.config import Config
from components.errors import ConfigError
from components.records import record
from components.settings import load
from components.vllm.catalog import load_catalog
from policy.limits import load_limits
from policy.rules import NAMED

REPO = Path(__file__).resolve().parents[2]
FILES = {path.name.split(".")[1]: path for path in REPO.glob("Pulumi.*.yaml")}
REAL = ("dev", "staging", "prod")


def config_of(name):
    own = yaml.safe_load(FILES[name].read_text())["config"]
    return {key: value for key, value in own.items() if not (isinstance(value, dict) and "secure" in value)}


def flat(name):
    """Return the config of a file, a key of a group as group.key."""
    groups = {key: value if isinstance(value, dict) else {"": value} for key, value in config_of(name).items()}
    return {f"{key}.{inner}".rstrip("."): one for key, inside in groups.items() for inner, one in inside.items()}


def settings(name, **changes):
    raw = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config_of(name).items()}
    return load(raw | changes, load_catalog(), hub_reachable=lambda _url: True, limits=load_limits(name))


@pytest.mark.parametrize("name", FILES)
def test_every_stack_file_loads_and_obeys_its_own_policy(name):
    settings(name)


@pytest.mark.parametrize("name", FILES)
def test_a_stack_file_says_only_what_differs_from_the_defaults(name):
    defaults = Config().model_dump()
    stated = flat(name)
    again = {key for key, value in stated.items() if value == defaults.get(key)}
    assert again <= {"model", "prefer"}  # the two that people come to change


@pytest.mark.parametrize("name", REAL)
def test_what_costs_money_is_bound_in_price_disk_and_routes(name):
    limits = load_limits(name)
    assert {"pinned-image", "tls-and-guard", "label", "validation"} <= set(limits.rules)
    assert limits.max_hourly_usd
    assert limits.max_disk_gb


def test_prod_is_the_strictest():
    made, limits = settings("prod"), load_limits("prod")
    assert made.config.protect
    assert made.config.max_latency_ms > 0
    assert made.watch.renew_before_h > 0
    assert set(limits.rules) == set(NAMED)
    assert limits.hosting == "datacenter"
    assert limits.countries
    demanded = {one.field for one in made.constraints}
    assert demanded >= {"datacenter", "reliability", "duration", "geolocation", "dph_total"}


def test_an_interruptible_instance_is_for_dev_alone():
    assert settings("dev", bid="auto").bid
    for name in ("staging", "prod"):
        with pytest.raises(ConfigError, match="policy: no-bid: "):
            settings(name, bid="auto")


def test_the_table_in_the_docs_names_every_key_and_limit_that_differs():
    page = (REPO / "docs" / "environments.md").read_text().partition("## Policy")[0]
    of_config, of_limits = page.split("| limit | dev ")
    for name in REAL:
        for table, values in ((of_config, flat(name)), (of_limits, record(load_limits(name)))):
            for key, value in ((key, value) for key, value in values.items() if value):
                [row] = [line for line in table.splitlines() if line.startswith(f"| `{key}` |")]
                cell = row.strip("|").split("|")[1 + REAL.index(name)].strip()
                shown = ", ".join(value) if isinstance(value, list) else str(value).lower()
                assert cell == shown, (name, key, cell, shown)


def test_a_review_stack_is_bound_as_dev_is():
    assert load_limits("review-12") == load_limits("dev")
