"""The dashboard asks Caddy for what Caddy has."""

import json
from pathlib import Path

from components.caddy.config import gateway_config
from harness.wait import until
from tests.dashboard import find_missing
from tests.gateway.conftest import scrape_metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "dashboards" / "reranker.json").read_text())


def test_every_caddy_metric_of_the_dashboard_is_in_a_scrape_of_the_gateway(caddy, rerankers, front):
    one = front(rerankers(1))
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    scrape = scrape_metrics(caddy)
    assert find_missing(DASHBOARD, scrape, prefix="caddy_", job_labels={"job", "stack"}) == []
    scrape = scrape.replace("upstreams_healthy", "up")
    missing = find_missing(DASHBOARD, scrape, prefix="caddy_", job_labels={"job", "stack"})
    assert missing == ["caddy_reverse_proxy_upstreams_healthy"]
