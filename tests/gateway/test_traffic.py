"""Requests under way: spread, repeated elsewhere, undisturbed by changes of the config."""

import concurrent.futures
import json
import re
from dataclasses import replace

import pytest

from components.caddy.config import gateway_config
from components.caddy.spec import GatewayPolicy
from components.guard.last_check import CHECK
from harness.load import BODY, LoadGenerator
from harness.wait import until


def test_slow_requests_spread_by_what_each_upstream_has_in_flight(caddy, rerankers, front):
    three = rerankers(3)
    one = front(three)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(one.ask, delay_s=2) for _ in range(12)]
        until(lambda: sorted(caddy.admin.upstreams().values()) == [4, 4, 4])
        names = [each.result().headers["x-upstream"] for each in asked]
    assert {name: names.count(name) for name in names} == {each.name: 4 for each in three}


def test_an_upstream_killed_under_load_costs_no_request(caddy, rerankers, front):
    three = rerankers(3)
    one = front(three)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    with LoadGenerator(one) as load:
        load.wait_for_requests(80)
        three[0].kill()
        load.wait_for_requests(240)
        three[0].start()
        before = load.by_upstream[three[0].name]
        until(lambda: load.by_upstream[three[0].name] > before + 5)
        load.wait_for_requests(80)
    assert load.failures == []
    assert load.rate_per_s >= 50


def test_a_request_cut_off_in_its_midst_is_repeated_on_another_upstream(caddy, rerankers, front):
    two = rerankers(2)
    one = front(two)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(one.ask, delay_s=1)
        busy = until(lambda: [address for address, count in caddy.admin.upstreams().items() if count])
        (victim,) = [each for each in two if each.address == busy[0]]
        victim.kill()
        answer = asked.result()
    assert answer.status_code == 200
    assert answer.headers["x-upstream"] != victim.name


@pytest.mark.parametrize("status", [502, 503])
def test_an_upstream_that_answers_502_or_503_is_not_the_last_word(caddy, rerankers, front, status):
    two = rerankers(2)
    one = front(two)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    two[0].set_status(status)
    answers = [one.ask() for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] * 20
    assert {answer.headers["x-upstream"] for answer in answers} == {two[1].name}
    two[0].clear_status()


def test_an_upstream_that_is_wrong_about_a_request_is_the_last_word(caddy, rerankers, front):
    two = rerankers(2)
    one = front(two)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    answer = one.ask(json={"model": "another", "query": "q", "documents": ["d"]})
    assert answer.status_code == 404
    assert "another" in answer.json()["error"]["message"]


@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept connections", "a connection each"])
def test_the_config_is_swapped_under_load_without_a_failed_request(caddy, rerankers, front, keep_alive):
    two = rerankers(2)
    one = front(two)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    with LoadGenerator(one, headers={} if keep_alive else {"Connection": "close"}) as load:
        for turn in range(10):
            load.wait_for_requests(20)
            kept, former = one.gateway.upstreams[:: 1 if turn % 2 else -1]
            caddy.admin.load(gateway_config(replace(one.gateway, upstreams=(kept,), retired=(former,))))
        load.wait_for_requests(20)
    assert load.failures == []
    assert load.rate_per_s >= 50
    assert set(load.by_upstream) == {each.name for each in two}


def test_the_front_repeats_a_request_that_the_old_config_gave_up_with_a_503(caddy, rerankers, front):
    """A config does not wait for an upstream once it is replaced: its retries end at once, with 503."""
    two = rerankers(2)
    one = front(two)
    config = gateway_config(one.gateway)
    gives_up = json.loads(re.sub(r'"try_duration": "\d+ms"', '"try_duration": "1ms"', json.dumps(config)))
    for each in two:
        each.set_status(503)
    caddy.admin.load(gives_up)
    until(lambda: all(each.requests() for each in two))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(one.ask)
        until(lambda: sum(each.requests().count('"/rerank"') for each in two) > 8)
        for each in two:
            each.clear_status()
        caddy.admin.load(config)
        assert asked.result().status_code == 200


@pytest.mark.parametrize("scores", [(None, None), (0.5, 0.5), (7.5, 0.1)], ids=str)
def test_an_upstream_whose_scores_are_none_or_do_not_rank_gets_no_request(caddy, rerankers, front, scores):
    two = rerankers(2)
    one = front(two)
    results = [{"index": n, "relevance_score": score} for n, score in enumerate(scores)]
    (two[0].folder / "answer").write_text(json.dumps({"model": "m", "results": results}))
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: {one.ask().headers["x-upstream"] for _ in range(20)} == {two[1].name})
    assert {one.ask().headers["x-upstream"] for _ in range(20)} == {two[1].name}


def test_servers_whose_checks_all_fail_are_used_anyway_and_a_request_does_not_wait_long(caddy, rerankers, front):
    two = rerankers(2)
    one = front(two)
    for each in two:
        (each.folder / "check_fails").touch()
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: all(each.requests().count('"path": "/rerank"') > 2 for each in two))
    body = json.dumps(BODY | {"query": "an {http.request.uri} of ä, answer after 1 s"})
    headers = {"Content-Type": "application/json"}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(one.ask, data=body, headers=headers) for _ in range(16)]
        answers = [each.result() for each in asked]
    assert [answer.status_code for answer in answers] == [200] * 16
    assert {answer.headers["x-upstream"] for answer in answers} == {each.name for each in two}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 8


def test_an_upstream_that_serves_passes_its_checks_and_no_client_can_send_one(caddy, rerankers, front):
    two = rerankers(2)
    one = front(two)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: {one.ask().headers["x-upstream"] for _ in range(8)} == {each.name for each in two})
    with LoadGenerator(one) as load:
        load.wait_for_requests(40)
        (two[0].folder / "check_fails").touch()  # as one that waits behind requests for longer than it may
        load.wait_for_requests(480)
    assert load.failures == []
    assert {each.upstream for each in load.results[-100:]} == {each.name for each in two}
    one.ask(path="/score", headers={CHECK.decode(): "1"})
    scored = [json.loads(line) for each in two for line in each.requests().splitlines() if '"/score"' in line]
    assert scored
    assert CHECK.decode() not in scored[0]["headers"]


def test_checks_wait_as_long_as_requests(caddy, rerankers, front):
    one = front(rerankers(1))
    text = json.dumps(gateway_config(replace(one.gateway, policy=GatewayPolicy(response_timeout_s=77))))
    assert text.count('"response_header_timeout": "77000ms"') == 1
    assert text.count('"timeout": "77000ms"') == 1


def test_each_upstream_is_asked_with_its_own_key_and_checked_by_its_own_name(caddy, rerankers, front):
    two = rerankers(2)
    one = front(two)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: {one.ask().headers.get("x-upstream") for _ in range(8)} == {each.name for each in two})
    before, log = [each.requests().count("/rerank") for each in two], len(caddy.log.read_text())
    until(lambda: all(each.requests().count("/rerank") > count + 2 for each, count in zip(two, before, strict=True)))
    assert not re.search("HTTP request failed|unexpected status code", caddy.log.read_text()[log:])
    for each, other in (two, two[::-1]):
        assert other.key not in each.requests()
        crossed = tuple(replace(up, key=other.key) if up.dial == each.address else up for up in one.gateway.upstreams)
        caddy.admin.load(gateway_config(replace(one.gateway, upstreams=crossed)))
        until(lambda other=other: {one.ask().headers.get("x-upstream") for _ in range(8)} == {other.name})


@pytest.mark.parametrize("name", ["of the other", "of none: its address"])
def test_an_upstream_that_shows_anothers_certificate_gets_no_request(caddy, rerankers, front, name):
    two = rerankers(2)
    one = front(two)
    shown = replace(two[0].upstream, server_name=two[1].server_name if name == "of the other" else "")
    caddy.admin.load(gateway_config(replace(one.gateway, upstreams=(shown, two[1].upstream))))
    until(lambda: one.ask().status_code == 200)
    before = two[0].requests()
    answers = [one.ask() for _ in range(20)]
    assert {answer.headers.get("x-upstream") for answer in answers} == {two[1].name}
    assert two[0].requests() == before


def test_a_gateway_without_upstreams_says_503_and_when_to_come_back_to_who_has_a_key(caddy, rerankers, front):
    one = front([])
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 503)
    answer = one.ask()
    assert answer.headers["retry-after"] == "60"
    assert answer.json()["error"]["type"] == "ServiceUnavailableError"
    assert one.ask(key="").status_code == 401
    [first] = rerankers(1)
    caddy.admin.load(gateway_config(replace(one.gateway, upstreams=(first.upstream,))))
    assert one.ask().status_code == 200
    caddy.admin.load(gateway_config(replace(one.gateway, retired=(first.upstream,))))
    assert one.ask().status_code == 503
