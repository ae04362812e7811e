"""Prometheus' files for a stack, and what a dashboard asks for."""

import json
from pathlib import Path

import pytest
import yaml

from components.monitoring.prometheus import Access, Replica, price_rules, scrape_config, targets
from ops.metrics import write
from tests.dashboard import expressions, labels_in, metrics_in, metrics_of

DASHBOARD = json.loads((Path(__file__).parents[2] / "dashboards" / "reranker.json").read_text())
SINGLE = {
    "url": "https://203.0.113.7:41025",
    "api_key": "k" * 64,
    "ca_certificate": "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
    "gpu": "RTX 4090",
    "machine_id": 17,
    "hourly_cost_usd": {"gpu": 0.3, "disk": 0.01, "total": 0.31},
}


def test_keys_and_authorities_are_named_by_file_and_written_nowhere_else(tmp_path):
    write(tmp_path, "dev", SINGLE | {"gateway_url": "https://203.0.113.9:8443", "gateway_api_key": "g" * 64})
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(texts) == {"prometheus.yml", "targets.json", "prices.yml", "api_key", "ca.pem", "gateway_api_key"}
    for name, text in texts.items():
        assert ("k" * 64 in text) == (name == "api_key")
        assert ("g" * 64 in text) == (name == "gateway_api_key")
    assert (tmp_path / "api_key").stat().st_mode & 0o777 == 0o600
    config = yaml.safe_load(texts["prometheus.yml"])
    replicas, gateway = config["scrape_configs"]
    assert replicas["scheme"] == "https"
    assert replicas["authorization"] == {"type": "Bearer", "credentials_file": str(tmp_path / "api_key")}
    assert replicas["tls_config"] == {"ca_file": str(tmp_path / "ca.pem"), "server_name": "reranker.internal"}
    assert gateway["scheme"] == "http"
    assert config["rule_files"] == [str(tmp_path / "prices.yml")]


def test_a_fleet_has_a_target_and_a_price_for_each_replica(tmp_path):
    fleet = [{**SINGLE, "name": f"r{n}", "url": f"https://203.0.113.{n}:4000", "hourly_cost_usd": n} for n in (1, 2)]
    write(tmp_path, "prod", {"replicas": fleet, "api_key": "k" * 64})
    found = json.loads((tmp_path / "targets.json").read_text())
    assert [(one["targets"], one["labels"]["replica"]) for one in found] == [
        (["203.0.113.1:4000"], "r1"), (["203.0.113.2:4000"], "r2"),
    ]  # fmt: skip
    rules = yaml.safe_load((tmp_path / "prices.yml").read_text())["groups"][0]["rules"]
    assert [(rule["expr"], rule["labels"]["replica"]) for rule in rules] == [
        ("vector(1.000000)", "r1"), ("vector(2.000000)", "r2"),
    ]  # fmt: skip


def test_files_are_replaced_when_they_are_written_again(tmp_path):
    write(tmp_path, "dev", SINGLE)
    write(tmp_path, "dev", SINGLE | {"api_key": "n" * 64})
    assert (tmp_path / "api_key").read_text() == "n" * 64


def test_outputs_without_a_reranker_are_said_to_be_such(tmp_path):
    with pytest.raises(LookupError):
        write(tmp_path, "dev", {"api_key": "k"})


def test_each_job_keeps_its_own_targets_of_the_one_file():
    one = Replica("r", "203.0.113.7:1", 0.1)
    config = scrape_config(
        "dev", targets_file="t", rules_file="r", replicas=Access("k", "ca"), gateway=Access("g"), every_s=5
    )
    jobs = {job["job_name"]: job["relabel_configs"][0]["regex"] for job in config["scrape_configs"]}
    assert set(jobs.values()) == {labels["labels"]["job_of"] for labels in targets([one], "203.0.113.9:443")}
    assert price_rules("dev", [one])["groups"][0]["rules"][0]["record"] == "reranker:hourly_cost_usd"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (code) (rate(a_total{x="b_total",y=~"c|d"}[5m]))', {"a_total"}),
        ('1e6 * sum(vllm:x{a="b"}) / 3600 / (rate(y[1m]) > 0)', {"vllm:x", "y"}),
        ("histogram_quantile(0.95, sum by (le, replica) (rate(h_bucket[$__rate_interval])))", {"h_bucket"}),
        ("up", {"up"}),
        ("1 - g or vector(0)", {"g"}),
    ],
)
def test_the_metrics_of_an_expression_are_found(expression, names):
    assert metrics_in(expression) == names


def test_the_labels_of_an_expression_are_found():
    assert labels_in('sum by (code) (rate(a_total{x="b",y=~"c"}[5m]))') == {"a_total": {"x", "y"}}


def test_a_scrape_has_its_histograms_series():
    scrape = "# HELP h x\n# TYPE h histogram\n# TYPE g gauge\ng 1\n# TYPE c_total counter\n"
    assert metrics_of(scrape) == {"h_bucket", "h_count", "h_sum", "g", "c_total"}


def test_every_panel_of_the_dashboard_asks_for_something_and_overlaps_no_other():
    cells = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells
        cells |= own
        assert panel["type"] == "row" or panel["targets"]
    assert len(expressions(DASHBOARD)) > 20
    assert all(metrics_in(one) for one in expressions(DASHBOARD))
