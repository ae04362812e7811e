"""The stack files that ship: each loads with the defaults of Pulumi.yaml, and obeys the policy that it sets itself."""

import json
from pathlib import Path

import pytest
import yaml

from components.errors import ConfigError
from components.settings import load
from components.vllm.catalog import load_catalog
from policy.rules import NAMED, Limits

REPO = Path(__file__).resolve().parents[2]
NAMESPACE = "vast-reranker:"
FILES = {path.name.split(".")[1]: path for path in REPO.glob("Pulumi.*.yaml")}
REAL = ("dev", "staging", "prod")


def as_the_engine_passes_it(value):
    return json.dumps(value) if isinstance(value, list) else str(value)


def config_of(name):
    schema = yaml.safe_load((REPO / "Pulumi.yaml").read_text())["config"]
    own = yaml.safe_load(FILES[name].read_text())["config"]
    defaults = {key: as_the_engine_passes_it(one["default"]) for key, one in schema.items()}
    plain = {key.removeprefix(NAMESPACE): value for key, value in own.items() if not isinstance(value, dict)}
    return defaults, {key: as_the_engine_passes_it(value) for key, value in plain.items()}


def settings(name, **changes):
    defaults, own = config_of(name)
    return load(defaults | own | changes, load_catalog(), hub_reachable=lambda _url: True)


@pytest.mark.parametrize("name", FILES)
def test_every_stack_file_loads_and_obeys_its_own_policy(name):
    settings(name)


@pytest.mark.parametrize("name", FILES)
def test_a_stack_file_says_only_what_differs_from_the_defaults(name):
    defaults, own = config_of(name)
    stated_again = {key for key, value in own.items() if defaults.get(key) == value}
    assert stated_again <= {"model", "prefer"}  # the two that people come to change


@pytest.mark.parametrize("name", REAL)
def test_what_costs_money_is_bound_in_price_disk_and_doors(name):
    limits = Limits.parse(settings(name).policy)
    assert {"pinned-image", "tls-and-guard", "label", "validation"} <= set(limits.rules)
    assert limits.max_hourly_usd
    assert limits.max_disk_gb


def test_prod_is_the_strictest():
    made, limits = settings("prod"), Limits.parse(settings("prod").policy)
    assert made.protect
    assert made.max_latency_ms > 0
    assert made.watch["renew_before_h"] > 0
    assert set(limits.rules) == set(NAMED)
    assert limits.hosting == "datacenter"
    assert limits.countries
    demanded = {one.field for one in made.constraints}
    assert demanded >= {"datacenter", "reliability", "duration", "geolocation", "dph_total"}


def test_an_interruptible_instance_is_for_dev_alone():
    assert settings("dev", bid="auto").offer_type == "bid"
    for name in ("staging", "prod"):
        with pytest.raises(ConfigError, match="policy: no-bid: "):
            settings(name, bid="auto")


def test_the_table_in_the_docs_names_every_key_that_differs():
    table = (REPO / "docs" / "environments.md").read_text()
    for name in REAL:
        for key, value in config_of(name)[1].items():
            assert f"| `{key}` |" in table, key
            row = next(line for line in table.splitlines() if line.startswith(f"| `{key}` |"))
            cell = row.strip("|").split("|")[1 + REAL.index(name)].strip()
            shown = ", ".join(json.loads(value)) if value.startswith("[") else value
            assert cell == shown, (name, key, cell, shown)
