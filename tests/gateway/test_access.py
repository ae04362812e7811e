"""What gets through the gateway, and what does not: paths, keys, bodies, and what can be read of its secrets."""

import http.client
import json
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from components.caddy.config import gateway_config
from components.caddy.front_proxy import front_proxy_config
from components.caddy.spec import Upstream
from components.guard.rules import ALLOW
from components.vast.identity import DOMAIN, Authority
from harness.caddy import running
from harness.load import BODY
from harness.wait import until
from reranker import Reranker
from reranker.http import HttpTransport, bearer
from tests.gateway.conftest import QUICK, scrape_metrics

OTHERS = ("/", "/metrics", "/health", "/version", "/docs", "/openapi.json", "/load", "/config/", "/id/test", "/stop",
          "/guard/keys", "/reverse_proxy/upstreams", "/pki/ca/local", "/debug/pprof/", "/v1/completions", "/rerank/",
          "/RERANK", "//rerank", "/rerank/../config/", "/metrics/", "/%2e%2e/config/")  # fmt: skip
SOON_503 = replace(QUICK, retry_for_s=0.5, check_every_s=0.2)


@pytest.fixture(params=[1, 2], ids=["directly", "through the front"])
def site(caddy, rerankers, front, request):
    one = front(rerankers(1), tiers=request.param)
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask().status_code == 200)
    return one


def raw(site, method, path, headers, body=None, chunked=False):
    """Send a path letter for letter."""
    host, port = site.url.removeprefix("https://").split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=site.ca))
    connection.request(method, path, body=body, headers=headers, encode_chunked=chunked)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_every_listed_path_needs_the_key(site):
    for path in ALLOW:
        for method in ("GET", "POST", "OPTIONS", "PUT"):
            for key in ("", "x" * 64, site.gateway.upstreams[0].key, site.key[:-1], site.key + "0"):
                answer = site.ask(method, path, key=key)
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["type"] == "AuthenticationError"
                assert answer.headers["www-authenticate"] == "Bearer"


def test_the_key_counts_in_its_own_place_only(site):
    for headers in ({"X-Api-Key": site.key}, {"Authorization": site.key}, {"Authorization": f"Basic {site.key}"},
                    {"Cookie": f"key={site.key}"}, {"Proxy-Authorization": f"Bearer {site.key}"}):  # fmt: skip
        assert site.ask(key="", headers=headers).status_code == 401
    assert site.ask(path=f"/rerank?api_key={site.key}", key="").status_code == 401
    assert site.ask(key="", headers={"Authorization": f"bearer {site.key}"}).status_code == 200


def test_every_other_path_is_404_with_and_without_the_key(site):
    for path in OTHERS:
        for headers in ({}, {"Authorization": f"Bearer {site.key}"}):
            for method in ("GET", "POST"):
                status, text = raw(site, method, path, headers)
                assert status == 404, (method, path)
                assert json.loads(text)["error"]["code"] == 404


def test_what_the_proxy_decodes_the_guard_behind_it_refuses(site):
    assert raw(site, "POST", "/%72erank", {}, json.dumps(BODY))[0] == 401
    status, _ = raw(site, "POST", "/%72erank", {"Authorization": f"Bearer {site.key}"}, json.dumps(BODY))
    assert status == 404


def test_an_admin_key_from_a_missing_variable_opens_nothing(caddy, front, tmp_path):
    back = tmp_path / "back.sock"
    one = front([], tiers=1, upstreams=(Upstream("127.0.0.1:1", "k" * 32),))
    caddy.admin.load(gateway_config(replace(one.gateway, listen=f"unix/{back}|0600", certificate=None)))
    config = front_proxy_config(
        one.gateway.listen, str(back), one.certificate, admin_socket=caddy.admin_socket, admin_key="{env.NOT_SET}"
    )
    with running(tmp_path / "f", config):
        for value in ("Bearer ", "Bearer", "bearer ", "", "Bearer {env.NOT_SET}"):
            status, text = raw(one, "GET", "/admin/config/", {"Authorization": value})
            assert (status, "admin" in text) == (404, False), value


def test_several_keys_are_valid_at_once(caddy, rerankers, front):
    one = front(rerankers(1), inbound_keys=("a" * 32, "b" * 32))
    caddy.admin.load(gateway_config(one.gateway))
    until(lambda: one.ask(key="a" * 32).status_code == 200)
    assert one.ask(key="b" * 32).status_code == 200
    assert one.ask(key="c" * 32).status_code == 401


def test_the_key_is_replaced_and_the_client_stays_unknown(site, rerankers, tmp_path):
    headers = {"X-Forwarded-For": "203.0.113.9", "Cookie": "a=b", "X-Real-Ip": "203.0.113.9"}
    assert site.ask(headers=headers).status_code == 200
    seen = (tmp_path / "reranker-0" / "requests.jsonl").read_text()
    assert site.key not in seen
    asked = [json.loads(line)["headers"] for line in seen.splitlines()]
    assert all(one["authorization"] == f"Bearer {site.gateway.upstreams[0].key}" for one in asked)
    for one in asked:
        assert not {"x-forwarded-for", "x-forwarded-host", "x-real-ip", "cookie"} & set(one)


def test_a_body_over_the_limit_is_413_however_it_is_sent_and_harms_nobody(site):
    large = json.dumps(BODY | {"query": "x" * site.gateway.policy.max_bytes})
    for _ in range(5):
        declared = requests.post(
            f"{site.url}/rerank",
            data=large,
            headers={"Authorization": f"Bearer {site.key}"},
            verify=site.ca,
            timeout=10,
        )
        assert declared.status_code == 413
        assert declared.json()["error"]["type"] == "RequestTooLarge"
        chunked = requests.post(
            f"{site.url}/rerank",
            data=iter([large[:9000].encode(), large[9000:].encode()]),
            headers={"Authorization": f"Bearer {site.key}"},
            verify=site.ca,
            timeout=10,
        )
        assert chunked.status_code == 413
        assert chunked.json()["error"]["code"] == 413
        assert site.ask().status_code == 200


@pytest.mark.parametrize("mib", [9, 20, 60])
def test_a_body_far_over_the_limit_is_read_to_its_end_and_its_413_arrives(site, mib):
    large = b'{"query": "' + b"x" * (mib << 20) + b'"}'
    answer = site.ask(data=large, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "RequestTooLarge")
    own = HttpTransport(ca=Path(site.ca).read_text())
    assert own("POST", f"{site.url}/rerank", body=large, headers=bearer(site.key)).status == 413
    assert site.ask().status_code == 200


def test_the_client_halves_what_the_gateway_finds_too_large(site):
    documents = [f"deep learning {'x' * 9000} {n}" for n in range(4)]
    client = Reranker.from_url(site.url, site.key, site.ca)
    assert len(client.rerank("deep learning", documents)) == 4


def test_a_body_over_what_is_read_is_refused_at_once(site):
    headers = {"Authorization": f"Bearer {site.key}", "Content-Length": str(1 << 40)}
    assert raw(site, "POST", "/rerank", headers)[0] == 413
    assert site.ask().status_code == 200


def test_a_chunked_body_under_the_limit_is_served(site):
    body = json.dumps(BODY).encode()
    headers = {"Authorization": f"Bearer {site.key}", "Content-Type": "application/json"}
    answer = requests.post(
        f"{site.url}/rerank", data=iter([body[:9], body[9:]]), headers=headers, verify=site.ca, timeout=10
    )
    assert answer.status_code == 200
    assert answer.json()["results"][0]["index"] == 0


def test_the_largest_body_allowed_arrives_whole(site):
    body = json.dumps(BODY | {"query": ""})
    body = json.dumps(BODY | {"query": "x" * (site.gateway.policy.max_bytes - len(body))})
    answer = site.ask(data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)  # the stub's limit on tokens, not a limit on bytes
    assert "x-upstream" in answer.headers


def test_nothing_of_a_key_is_readable_through_the_gateway_or_its_log(site, caddy, authority):
    hidden = [
        site.key,
        site.gateway.upstreams[0].key,
        *(site.certificate.private_key.splitlines()[1:-1] if site.certificate else []),
    ]
    texts = []
    for path in (*ALLOW, *OTHERS):
        for key in (None, ""):
            for method in ("GET", "POST"):
                answer = site.ask(method, path, key=key)
                texts.append(answer.text + str(answer.headers))
    texts += [scrape_metrics(caddy), caddy.log.read_text()]
    assert "caddy_http_requests_total" in texts[-2]
    for secret in hidden:
        assert not any(secret in text for text in texts)


def test_without_an_available_upstream_the_answer_is_a_503_of_vllms_shape(caddy, rerankers, front):
    (reranker,) = rerankers(1)
    one = front([reranker])
    caddy.admin.load(gateway_config(replace(one.gateway, policy=SOON_503)))
    until(lambda: one.ask().status_code == 200)
    reranker.kill()
    until(lambda: one.ask().status_code == 503)
    assert one.ask().json()["error"] == {
        "message": "no reranker is available", "type": "ServiceUnavailableError", "param": None, "code": 503
    }  # fmt: skip


def test_an_upstream_with_another_authoritys_certificate_gets_no_request(caddy, rerankers, front):
    (reranker,) = rerankers(1)
    one = front([reranker], upstream_ca=Authority.make("someone else's").certificate, policy=SOON_503)
    caddy.admin.load(gateway_config(one.gateway))
    before = reranker.requests()
    assert one.ask().status_code in (502, 503)
    assert reranker.requests() == before


@pytest.mark.parametrize(("name", "statuses"), [(f"elsewhere.{DOMAIN}", {200}), ("www.example.com", {502, 503})])
def test_an_upstream_under_a_name_that_the_authority_may_not_sign_gets_no_request(
    name, statuses, caddy, rerankers, front, authority
):
    (reranker,) = rerankers(1)
    reranker.kill()
    for file, text in zip(("cert.pem", "key.pem"), authority.issue(name).pem(), strict=True):
        (reranker.folder / file).write_text(text)
    reranker.start()
    until(lambda: listens(reranker.port))
    one = front([reranker], upstreams=(Upstream(reranker.address, reranker.key, name),), policy=SOON_503)
    caddy.admin.load(gateway_config(one.gateway))
    before = reranker.requests()
    assert one.ask().status_code in statuses
    assert (reranker.requests() == before) == (200 not in statuses)


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
