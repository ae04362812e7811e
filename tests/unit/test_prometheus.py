"""Prometheus' files for a stack, and what a dashboard asks for."""

import json
from pathlib import Path

import pytest
import yaml

from ops.metrics import PRICE, Admin, render_files
from ops.outputs import StackOutputs
from tests.dashboard import expressions, labels_in, metrics_in, metrics_in_scrape

DASHBOARD = json.loads((Path(__file__).parents[2] / "dashboards" / "reranker.json").read_text())
SERVER = {"instance_id": 1, "machine_id": 17, "gpu": "A", "url": "https://203.0.113.1:4000", "hourly_cost_usd": 1}
KEYS = {1: "m" * 64, 2: "n" * 64}
OUTPUTS = {
    "url": "https://203.0.113.1:4000",
    "api_key": "c" * 64,
    "ca_certificate": "-----BEGIN CERTIFICATE-----",
    "replicas": [SERVER, SERVER | {"instance_id": 2, "url": "https://203.0.113.2:4000", "hourly_cost_usd": 2}],
    "hourly_cost_usd": {"total": 3},
}


def written(admin=None, **changes):
    return render_files("prod", StackOutputs.parse(OUTPUTS | changes), KEYS, Path("/etc/prometheus"), 15, admin=admin)


def test_each_replica_has_a_target_and_a_price_and_is_scraped_with_its_own_key():
    texts = written()
    found = [one for n in (1, 2) for one in json.loads(texts[f"reranker-{n}.json"])]
    assert {(one["labels"]["stack"], one["labels"]["job"]) for one in found} == {("prod", "reranker")}
    assert [(one["targets"], one["labels"]["replica"]) for one in found] == [
        (["203.0.113.1:4000"], "1"), (["203.0.113.2:4000"], "2"),
    ]  # fmt: skip
    rules = yaml.safe_load(texts["prices.yml"])["groups"][0]["rules"]
    assert [(rule["record"], rule["expr"], rule["labels"]["replica"]) for rule in rules] == [
        (PRICE, "vector(1.000000)", "1"), (PRICE, "vector(2.000000)", "2"),
    ]  # fmt: skip
    for n, job in enumerate(yaml.safe_load(texts["prometheus.yml"])["scrape_configs"], start=1):
        assert job["scheme"] == "https"
        assert job["authorization"] == {"type": "Bearer", "credentials_file": f"/etc/prometheus/reranker-{n}_key"}
        assert job["tls_config"] == {"ca_file": "/etc/prometheus/ca.pem"}  # each is checked by its IP
        assert [name for name, text in texts.items() if KEYS[n] in text] == [f"reranker-{n}_key"]
    assert not any("c" * 64 in text for text in texts.values())


def test_a_gateway_is_scraped_at_its_admin_api_with_that_ones_key_and_each_job_keeps_its_own_targets():
    admin = Admin("https://203.0.113.9:8443/admin", "a" * 64, own_ca=True)
    texts = written(admin, url="https://203.0.113.9:8443")
    first, second, gateway = yaml.safe_load(texts["prometheus.yml"])["scrape_configs"]
    assert gateway["metrics_path"] == "/admin/metrics"
    assert gateway["authorization"]["credentials_file"] == "/etc/prometheus/admin_key"
    assert gateway["tls_config"] == {"ca_file": "/etc/prometheus/ca.pem"}
    assert [name for name, text in texts.items() if "a" * 64 in text] == ["admin_key"]
    assert not any("c" * 64 in text for text in texts.values())
    for job, target in ((first, "203.0.113.1:4000"), (second, "203.0.113.2:4000"), (gateway, "203.0.113.9:8443")):
        [file] = job["file_sd_configs"][0]["files"]
        [found] = json.loads(texts[file.removeprefix("/etc/prometheus/")])
        assert found["targets"] == [target]
        assert found["labels"]["stack"] == "prod"


def test_an_admin_api_on_loopback_is_scraped_without_a_key_and_a_socket_is_not():
    def resource(url):
        return {"type": "pulumi-python:dynamic:Gateway", "outputs": {"admin_url": url, "admin_key": ""}}

    assert Admin.parse([]) is None
    assert Admin.parse([resource("unix:///run/admin.sock")]) is None
    texts = written(Admin.parse([resource("http://127.0.0.1:2019")]))
    *_, job = yaml.safe_load(texts["prometheus.yml"])["scrape_configs"]
    assert (job["scheme"], job["metrics_path"]) == ("http", "/metrics")
    assert not {"authorization", "tls_config"} & set(job)


def test_a_stack_without_tls_is_scraped_in_clear():
    plain = [SERVER | {"url": "http://203.0.113.1:4000"}]
    texts = written(ca_certificate="", replicas=plain, url="http://203.0.113.1:4000")
    [job] = yaml.safe_load(texts["prometheus.yml"])["scrape_configs"]
    assert (job["scheme"], "tls_config" in job, "ca.pem" in texts) == ("http", False, False)


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
    assert metrics_in_scrape(scrape) == {"h_bucket", "h_count", "h_sum", "g", "c_total"}


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
