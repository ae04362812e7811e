"""What an Instance's check shows a policy pack, what its deletion does when an answer is lost, and what one process's
session shares between replicas; no engine."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from components.errors import NoOffer
from components.instance import InstanceProvider
from components.plugin.session import Session
from components.records import structure
from components.stack_ledger import open_ledger
from components.vast.instance_cache import InstanceCache
from components.vast.json_values import as_text
from components.vast.label import Label, new_nonce
from components.vast.market import Search
from reranker.http import Answer
from tests.unit.scripted_api import ScriptedApi, no_answer
from tests.unit.wire_samples import offer

SEARCH = {"query": "num_gpus=1", "constraints": [], "pull_gb": 12, "disk_gb": 40, "prefer": "cheapest"}
PORT = {"port": 8000}


@pytest.fixture
def api():
    return ScriptedApi()


@pytest.fixture
def session(api):
    client = api.client()
    return Session(client, InstanceCache(client))


@pytest.fixture
def provider(session):
    made = InstanceProvider()
    made.session = session
    return made


def inputs(query="num_gpus=1", **more):
    search = as_text({**SEARCH, "query": query})
    return {
        "label_base": "p/s/n",
        "owner": "0a1b",
        "search": search,
        "image": "i:1",
        "disk_gb": 40,
        "probe": PORT,
    } | more


def shown(provider, olds, news):
    done = provider.check(olds, news)
    assert not done.failures, [one.reason for one in done.failures]
    return done.inputs


def asks(checked):
    return [one["ask_contract_id"] for one in checked["candidates"]]


def test_all_that_a_lone_server_may_rent_is_shown_best_first(provider):
    checked = shown(provider, {}, inputs())
    assert asks(checked) == [1001, 1002, 1003, 1004, 1005, 1006]
    assert {"dph_total", "geolocation", "hosting_type", "machine_id", "gpu_name"} < set(checked["candidates"][0])


def test_a_running_server_shows_what_it_showed_while_its_search_is_the_same(provider, api):
    olds = shown(provider, {}, inputs())
    api.offers = [offer(2001)]
    searches = api.calls.total()
    assert shown(provider, olds, inputs())["candidates"] == olds["candidates"]
    assert api.calls.total() == searches


def test_a_running_server_shows_the_offers_of_another_search(provider, api):
    olds = shown(provider, {}, inputs())
    api.offers = [offer(2001, geolocation="Norway, NO")]
    assert asks(shown(provider, olds, inputs("num_gpus=1 geolocation=NO"))) == [2001]


def test_a_running_server_stays_where_another_search_finds_nothing_and_a_new_one_fails(provider, api):
    olds = shown(provider, {}, inputs())
    api.offers = []
    assert shown(provider, olds, inputs("num_gpus=4"))["candidates"] == []
    assert "no offer" in provider.check({}, inputs("num_gpus=4")).failures[0].reason.lower()


def test_a_preview_says_what_the_credit_and_the_key_do_not_allow(provider, api):
    api.credit_usd = 0.01
    (refused,) = provider.check({}, inputs()).failures
    assert refused.reason.startswith("RentalFailed: the credit is $0.01, but until it serves ")

    forbidden = b'{"success": false, "error": "auth_error", "msg": "does not have permission: user_read"}'
    api.interrupt = lambda _method, path: Answer(403, forbidden) if "users" in path else None
    provider.session = Session(client := api.client(), InstanceCache(client))
    with pytest.raises(
        Exception, match=r"permission: user_read\); the key lacks a permission: .* needs instance_read, "
    ):
        provider.check({}, inputs())


def test_more_servers_than_machines_are_refused_with_both_numbers_before_anything_is_rented(provider, api):
    api.offers = [offer(1001), offer(1002), offer(1003)]
    slots = [inputs(label_base=f"p/s/n-{at}", slot={"index": at, "of": 4, "spread": "none"}) for at in range(4)]
    failed = [one.reason for news in slots for one in provider.check({}, news).failures]
    assert failed == [
        "NoOffer: 4 servers are declared, but running and available machines are enough only for 3; "
        "widen the query or reduce replicas"
    ]


def test_the_last_free_machine_is_offered_while_other_replicas_are_replaced_and_run_twice(provider, api):
    api.offers = [offer(1001)]
    for number, index in enumerate((0, 0, 2, 2)):
        label = Label(f"p/s/n-{index}", owner="0a1b", digest=12 * "0", nonce=new_nonce())
        api.add(str(label), machine_id=7000 + number)
    news = inputs(label_base="p/s/n-1", slot={"index": 1, "of": 4, "spread": "none"})
    assert asks(shown(provider, {}, news)) == [1001]


@pytest.mark.parametrize(
    ("given", "broken"), [({}, True), ({"ca_certificate": ""}, True), ({"ca_certificate": "PEM"}, False)]
)
def test_no_certificate_and_an_empty_one_are_no_tls_to_the_policy(provider, given, broken):
    headers = {"Authorization": "Bearer ${RERANK_API_KEYS}"}
    news = inputs(policy={"rules": ["tls-and-guard"]}, probe={**PORT, "headers": headers}, **given)
    assert bool(provider.check({}, news).failures) is broken


@pytest.mark.parametrize(("chars", "refused"), [(209, False), (210, True)])
def test_a_label_that_vast_would_cut_is_refused_before_anything_is_rented(provider, api, chars, refused):
    checked = provider.check({}, inputs(label_base=f"p/s/{(chars - 4) * 'n'}"))
    assert [one.property for one in checked.failures] == ["label_base"] * refused
    longest = Label(chars * "n", owner=8 * "0", digest=12 * "0", pending=True, nonce=new_nonce())
    assert (len(str(longest)) > 256) is refused
    assert bool(api.calls) is not refused


# ---- a deletion of which an answer is lost


def lose_first_destroy_answer(api):
    """Let the first destroy request reach the API and its answer get lost."""
    lost = []

    def interrupt(method, path):
        if method == "DELETE" and not lost:
            api.contracts.pop(int(path.split("/")[4]), None)
            lost.append(path)
            raise no_answer()

    api.interrupt = interrupt


def test_an_instance_whose_destroy_answer_was_lost_has_its_end_in_the_ledger(provider, api, tmp_path, monkeypatch):
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}")
    instance_id = api.add("x")
    lose_first_destroy_answer(api)
    provider.delete(str(instance_id), inputs(api_url="http://api.test", account_id=1))
    [end] = open_ledger("p/s/n", os.environ, Path()).events()
    assert (end.kind, end.instance_id, end.reason) == ("end", instance_id, "destroyed")


def test_an_instance_of_another_account_is_not_given_up_when_an_answer_to_its_destroy_was_lost(provider, api):
    lose_first_destroy_answer(api)
    with pytest.raises(Exception, match=r"account 2 rented it, and the Vast\.ai key belongs to account 1"):
        provider.delete("4711", inputs(api_url="http://api.test", account_id=2))


# ---- what a process searches once


def found(session, *, again=False):
    return [one.offer.ask_id for one in session.search(structure(Search, SEARCH), again=again)]


def test_a_forced_search_asks_anew_and_leaves_the_first_list_to_the_others(session, api):
    first = found(session)
    api.offers = [offer(2001)]
    assert found(session, again=True) == [2001]
    assert found(session) == first
    api.offers = [offer(2002)]
    assert found(session, again=True) == [2002]
    assert found(session) == first


def test_those_who_ask_at_once_share_one_search(session, api):
    together, answers = threading.Barrier(6), []

    def ask():
        together.wait(5)
        answers.append(found(session))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    assert len(answers) == 6
    assert api.calls.total() == 1


def test_a_search_that_finds_nothing_is_not_kept(session, api):
    offers, api.offers = api.offers, []
    with pytest.raises(NoOffer):
        found(session)
    api.offers = offers
    assert len(found(session)) == 6


def test_an_answer_in_a_refresh_is_remembered_as_a_host_that_was_heard(provider, api, session):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        here = {"public_ipaddr": "127.0.0.1", "ports": {"8000/tcp": [{"HostPort": str(server.server_port)}]}}
        id_ = api.add("p/s/n@0a1b:abc", **here)
        assert not session.has_host_answered
        assert provider.read(str(id_), inputs()).outs["drift"] == ""
        assert session.has_host_answered
    finally:
        server.shutdown()
        server.server_close()
