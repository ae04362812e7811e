"""Clients by name through a real Caddy: each metered under its name by the guards, and ended or exchanged alone."""

import json
import time
from dataclasses import replace

import pytest

from components.caddy.config import gateway_config
from components.caddy.spec import NamedKey
from components.guard.keys import Access, Key
from components.vllm.client import RerankClient
from harness.load import BODY
from harness.wait import until
from reranker.http import HttpTransport, bearer

SEARCH, BATCH, PAST = ("search-key-0123456789", "batch-key-0123456789", "past-key-0123456789")


class Servers:
    """The servers' guards, by their own keys."""

    def __init__(self, rerankers, authority):
        self.rerankers, self.ca = rerankers, authority.certificate

    def told(self, *keys):
        for one in self.rerankers:
            trusting = HttpTransport(ca=self.ca, server_name=one.server_name)
            RerankClient(f"https://{one.address}", one.key, transport=trusting).set_access(Access(keys))

    def counted(self, line):
        """Sum a metric, with its labels, over all servers."""
        return sum(int(row.rpartition(" ")[2]) for text in self.metrics() for row in text.splitlines() if line in row)

    def metrics(self):
        for one in self.rerankers:
            trusting = HttpTransport(ca=self.ca, server_name=one.server_name)
            yield trusting("GET", f"https://{one.address}/metrics", headers=bearer(one.key), timeout_s=10).text

    def logged(self, name):
        lines = [line for one in self.rerankers for line in (one.folder / "log").read_text().splitlines()]
        return [found for found in map(json.loads, lines) if found["key"] == name]


@pytest.fixture(params=[1, 2], ids=["directly", "through the front"])
def site(caddy, rerankers, front, authority, request):
    two = rerankers(2)
    clients = (NamedKey("search", SEARCH), NamedKey("batch", BATCH), NamedKey("past", PAST))
    one = front(two, tiers=request.param, clients=clients)
    servers = Servers(two, authority)
    servers.told(Key("search", ""), Key("batch", "", requests_per_s=0.1), Key("past", "", expires_at=time.time() - 1))
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    return one, servers


def test_each_name_is_metered_and_ended_by_itself_at_the_servers(site):
    one, servers = site
    body = BODY | {"documents": ["a", "b", "c"]}
    assert [one.ask(key=SEARCH, json=body).status_code for _ in range(4)] == [200] * 4
    assert one.ask(key=PAST).status_code == 401
    answers = [one.ask(key=BATCH) for _ in range(5)]  # of two servers each lets one through
    assert sorted({answer.status_code for answer in answers}) == [200, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "batch is limited to 0.1 requests per second" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    until(lambda: servers.counted('guard_requests_total{key="search",status="200"}') == 4)
    assert servers.counted('guard_pairs_total{key="search"}') == 12
    assert servers.counted('guard_requests_total{key="batch",status="200"}') in (1, 2)
    assert {(row["route"], row["pairs"], row["status"]) for row in servers.logged("search")} == {("/rerank", 3, 200)}
    assert servers.logged("batch")


def test_no_client_may_say_that_it_is_another(site):
    one, servers = site
    for key in (None, SEARCH):
        for name in ("X-Guard-Client", "x-guard-client"):
            assert one.ask(key=key, headers={name: "past"}).status_code == 200
    until(lambda: servers.counted('guard_requests_total{key="search",status="200"}') == 2)
    assert one.ask(key=PAST, headers={"X-Guard-Client": "search"}).status_code == 401


def test_a_name_is_exchanged_and_taken_away_without_touching_the_other(site, caddy):
    one, servers = site
    rotated = (NamedKey("search", "another-search-key-0123"), *one.gateway.clients[1:])
    caddy.admin.load(gateway_config(replace(one.gateway, clients=rotated)))
    until(lambda: one.ask(key="another-search-key-0123").status_code == 200)
    until(lambda: one.ask(key=SEARCH).status_code == 401)
    assert one.ask(key=BATCH).status_code == 200
    servers.told(Key("batch", ""))
    assert (one.ask(key="another-search-key-0123").status_code, one.ask(key=BATCH).status_code) == (401, 200)


def test_at_the_servers_themselves_a_clients_key_opens_nothing(site):
    _, servers = site
    for one in servers.rerankers:
        for key in (SEARCH, BATCH, ""):
            trusting = HttpTransport(ca=servers.ca, server_name=one.server_name)
            client = RerankClient(f"https://{one.address}", key, transport=trusting)
            assert client.probe_path("/v1/models", key) == (401, 401)
