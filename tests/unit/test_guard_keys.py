"""Named keys, their rates and ends; what is in flight; the log, the metrics, and the certificate that is exchanged."""

import asyncio
import json
import threading
import time
from hashlib import sha256

import pytest
import requests

from components.guard.certificate import RENEWED_FILE, CertificateStore
from components.guard.keys import KeyStore, parse
from components.guard.rules import Refusal
from components.vast.identity import Authority, fetch_certificate
from emulator.scoring import Served
from emulator.stub import Stub
from harness.guard import guarded
from harness.wait import until

OWN = "management-key-0123456789"
PAIR = {"query": "q", "documents": ["d"]}


def digest(key):
    return sha256(key.encode()).hexdigest()


def named(name, key=None, **more):
    return {"name": name, "sha256": digest(key or name), **more}


class Client:
    """Asks a guard."""

    def __init__(self, guard, scheme="http"):
        self.guard, self.url = guard, f"{scheme}://127.0.0.1:{guard.port}"

    def ask(self, key=OWN, path="/rerank", method="POST", body=PAIR, **kwargs):
        headers = {"Authorization": f"Bearer {key}"}
        return requests.request(method, self.url + path, json=body, headers=headers, timeout=10, **kwargs)

    def put(self, *keys, key=OWN):
        return self.ask(key, "/guard/keys", "PUT", {"keys": list(keys)})


@pytest.fixture
def client():
    with guarded(Stub(Served(("m",))), OWN) as guard:
        yield Client(guard)


@pytest.mark.parametrize(
    "document",
    [
        {}, {"keys": {}}, {"keys": None}, {"keys": "ab"}, {"keys": ["0" * 64]}, [], {"keys": [{"name": "a"}]},
        {"keys": [{"name": "a", "sha256": "0" * 63}]}, {"keys": [{"name": "", "sha256": "0" * 64}]},
        {"keys": [named("management")]}, {"keys": [named("a", more=1)]}, {"keys": [named("a"), named("a")]},
        {"keys": [named("a", requests_per_s=0)]}, {"keys": [named("a", pairs_per_min=True)]},
        {"keys": [named("a", expires_at="soon")]}, {"keys": [named("a", routes=["/guard/keys"])]},
        {"keys": [named(f"a{n}") for n in range(33)]},
    ],
)  # fmt: skip
def test_what_is_no_list_of_keys_is_refused_and_changes_nothing(client, document):
    assert client.put(named("search")).status_code == 200
    assert client.ask(path="/guard/keys", method="PUT", body=document).status_code == 400
    assert client.ask("search").status_code == 200


def test_keys_come_and_go_by_the_management_key_alone(client):
    assert client.put(named("search"), named("batch")).json()["keys"][0]["name"] == "search"
    assert [client.ask(key).status_code for key in ("search", "batch", "other", OWN)] == [200, 200, 401, 200]
    assert client.put(key="search").status_code == 401
    assert client.put(named("batch")).status_code == 200
    assert [client.ask(key).status_code for key in ("search", "batch")] == [401, 200]


@pytest.mark.parametrize("path", ["/guard/keys", "/guard/routes", "/guard/certificate", "/metrics"])
def test_what_manages_needs_the_management_key(client, path):
    client.put(named("search"))
    assert client.ask("search", path, "GET", None).status_code == 401
    assert client.ask(OWN, path, "GET", None).status_code == (404 if "certificate" in path else 200)


def test_keys_are_kept_in_a_file_over_a_restart(tmp_path):
    file = tmp_path / "keys.json"
    KeyStore(OWN, file, now=time.time).set(parse(json.dumps({"keys": [named("search", routes=["/rerank"])]})))
    assert KeyStore(OWN, file, now=time.time).find(["Bearer search"]).routes == ("/rerank",)
    assert "search" not in [line for line in file.read_text().split('"') if len(line) == 64]


def test_a_key_ends_at_its_time_and_opens_its_routes_only():
    now = [1000.0]
    keys = KeyStore(OWN, now=lambda: now[0])
    keys.set(parse(json.dumps({"keys": [named("search", expires_at=1001)]})))
    assert keys.find(["Bearer search"]).name == "search"
    now[0] = 1001.0
    with pytest.raises(Refusal) as caught:
        keys.find(["Bearer search"])
    assert caught.value.status == 401


def test_without_a_management_key_nothing_is_open():
    with pytest.raises(Refusal):
        KeyStore("", now=time.time).find(["Bearer "])


def test_a_key_for_some_routes_gets_403_on_the_others(client):
    client.put(named("search", routes=["/rerank"]))
    assert client.ask("search").status_code == 200
    assert client.ask("search", "/score", body={"text_1": "a", "text_2": "b"}).status_code == 403


def test_rates_are_by_name_and_say_when_to_come_again():
    now = [0.0]
    keys = KeyStore(OWN, now=lambda: now[0])
    limited = {"requests_per_s": 2, "pairs_per_min": 60}
    keys.set(parse(json.dumps({"keys": [named("search", **limited), named("search", "next", **limited)]})))
    one, other = keys.find(["Bearer search"]), keys.find(["Bearer next"])
    keys.count(one)
    keys.count(other)
    with pytest.raises(Refusal, match="search is limited to 2 requests per second") as caught:
        keys.count(one)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    now[0] = 0.5
    keys.count(one)
    keys.count(one, pairs=100)  # more than a minute's, from a full measure
    with pytest.raises(Refusal, match="60 pairs per minute") as caught:
        keys.count(other, pairs=1)
    assert caught.value.retry_after_s == 41
    now[0] = 42.0
    keys.count(other, pairs=1)


def test_the_management_key_has_no_rates(client):
    client.put(named("search", requests_per_s=1))
    assert [client.ask("search").status_code for _ in range(2)] == [200, 429]
    assert int(client.ask("search").headers["Retry-After"]) == 1
    assert [client.ask().status_code for _ in range(5)] == [200] * 5


def test_by_the_management_key_a_gateway_says_whose_request_it_is_and_nobody_else_does(client):
    by_gateway = {"name": "batch", "sha256": "", "requests_per_s": 1}
    assert client.put(named("search"), by_gateway).status_code == 200

    def ask(key, name, path="/rerank", method="POST"):
        headers = {"Authorization": f"Bearer {key}", "X-Guard-Client": name}
        return requests.request(method, client.url + path, json=PAIR, headers=headers, timeout=10).status_code

    assert [ask(OWN, "batch") for _ in range(2)] == [200, 429]
    assert [ask(OWN, name) for name in ("search", "unknown", "management", "")] == [200, 401, 401, 401]
    assert ask("search", "batch") == 200, "a client is who its key says"
    assert [client.ask(key).status_code for key in ("batch", "", OWN)] == [401, 401, 200]
    assert ask(OWN, "search", "/metrics", "GET") == 401
    until(lambda: len(client.guard.log) == 6)
    names = [json.loads(line)["key"] for line in client.guard.log[1:]]
    assert names == ["batch", "batch", "search", "search", "management"]
    assert client.put(by_gateway, by_gateway).status_code == 400


class Slow:
    """A server that answers when it is told to."""

    def __init__(self):
        self.waiting, self.go = 0, threading.Event()

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/rerank":
            self.waiting += 1
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def test_pairs_times_tokens_in_flight_are_bounded_by_name_and_in_all():
    slow = Slow()
    large = {"query": "q" * 8000, "documents": ["d"] * 1000}  # at most 8 million tokens
    with guarded(slow, OWN, {"context": 8192}) as guard:
        client = Client(guard)
        client.put(*(named(f"k{n}") for n in range(8)))
        asking = [threading.Thread(target=client.ask, args=(f"k{n}",), kwargs={"body": large}) for n in range(4)]
        for one in asking:
            one.start()
        until(lambda: slow.waiting == 4)
        of_the_name, of_all = client.ask("k1", body=large), client.ask("k5", body=large)
        slow.go.set()
        for one in asking:
            one.join()
        assert (of_the_name.status_code, of_all.status_code) == (429, 429)
        assert "k1 has too many tokens in flight" in of_the_name.text
        assert ("the queue is full" in of_all.text, of_all.headers["Retry-After"]) == (True, "1")
        assert client.ask("k1", body=large).status_code == 200
        until(lambda: guard.server.gate.in_flight.total() == 0)  # an answer arrives before its request is over


def test_a_client_that_leaves_ends_what_is_done_for_it():
    slow = Slow()
    with guarded(slow, OWN) as guard:
        with pytest.raises(requests.ReadTimeout):
            requests.post(
                f"http://127.0.0.1:{guard.port}/rerank", json=PAIR, headers={"Authorization": f"Bearer {OWN}"},
                timeout=0.3,
            )  # fmt: skip
        assert slow.waiting == 1
        until(lambda: not guard.server.connections and guard.server.gate.in_flight.total() == 0, within_s=5)
        slow.go.set()


def test_each_request_of_a_key_is_a_line_of_the_log_without_text_or_key(client):
    client.put(named("search"))
    client.ask("search", body={"query": "a secret question", "documents": ["a secret text", "another"]})
    client.ask("search", "/score", body={"text_1": "a", "text_2": ["b", "c", "d"]})
    client.ask("unknown")
    until(lambda: len(client.guard.log) == 3)
    lines = [json.loads(line) for line in client.guard.log]
    assert [line.keys() for line in lines] == [{"time", "key", "route", "pairs", "tokens", "status", "ms"}] * 3
    told = [(line["key"], line["route"], line["pairs"], line["status"]) for line in lines]
    assert told == [("management", "/guard/keys", 0, 200), ("search", "/rerank", 2, 200), ("search", "/score", 3, 200)]
    assert lines[1]["tokens"] > 10
    assert lines[2]["tokens"] > 10
    assert "secret" not in "".join(client.guard.log)


def test_metrics_have_vllms_and_the_counters_of_each_key(client):
    client.put(named("search"))
    client.ask("search", body={"query": "q", "documents": ["d", "e"]})
    client.ask("search", body={"nonsense": 1})
    text = client.ask(path="/metrics", method="GET", body=None).text
    assert "vllm:num_requests_running" in text
    assert 'guard_requests_total{key="search",status="200"} 1\n' in text
    assert 'guard_requests_total{key="search",status="400"} 1\n' in text
    assert 'guard_pairs_total{key="search"} 2\n' in text


def test_a_text_that_looks_like_usage_is_not_counted_as_such(client):
    client.ask(body={"query": "q", "documents": ['"total_tokens": 999999, "x" "total_tokens":999999'] * 3})
    until(lambda: client.guard.log)
    assert json.loads(client.guard.log[-1])["tokens"] < 1000


def test_before_vllm_serves_a_key_gets_503_and_can_manage_all_the_same():
    with guarded(Slow(), OWN, upstream=False) as guard:
        client = Client(guard)
        answer = client.ask()
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert client.put(named("search")).status_code == 200


def test_a_list_of_keys_that_is_too_long_to_read_is_refused():
    with pytest.raises(Refusal):
        parse(b"[" * 100_000)


# ---- the certificate -------------------------------------------------------------------------------------------------


def renewed(authority, identity, days):
    """A certificate of the same key, valid from now for so many days."""
    return authority.renew(identity.certificate, "127.0.0.1", days=days).encode()


def test_a_later_certificate_of_the_same_key_is_shown_at_once_and_nothing_else_is_taken(tmp_path):
    authority = Authority.make("test", ["127.0.0.0/8"])
    identity, other = authority.issue("127.0.0.1", days=5), authority.issue("127.0.0.1", days=30)
    ca = tmp_path / "ca.pem"
    ca.write_text(authority.certificate)
    with guarded(Stub(Served(("m",))), OWN, identity=identity.pem()) as guard:
        client = Client(guard, "https")

        def put(pem, key=OWN):
            headers = {"Authorization": f"Bearer {key}"}
            url = f"{client.url}/guard/certificate"
            return requests.put(url, data=pem, headers=headers, timeout=10, verify=str(ca)).status_code

        def days():
            return (fetch_certificate("127.0.0.1", guard.port, authority.certificate).ends_at - time.time()) / 86400

        assert days() == pytest.approx(5, abs=0.1)
        for wrong in (b"", b"no pem", other.pem()[0].encode(), renewed(authority, identity, 3), b"x" * 70_000):
            assert put(wrong) in (400, 413)
        assert put(renewed(authority, identity, 20), key="x") == 401
        assert days() == pytest.approx(5, abs=0.1)
        assert put(renewed(authority, identity, 20)) == 200
        assert days() == pytest.approx(20, abs=0.1)
        assert client.ask(verify=str(ca)).status_code == 200


def test_a_restart_takes_the_later_certificate_and_the_first_one_where_the_later_is_broken(tmp_path):
    authority = Authority.make("test", ["127.0.0.0/8"])
    identity = authority.issue("127.0.0.1", days=5)
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    for file, text in zip(files, identity.pem(), strict=True):
        file.write_text(text)
    first = CertificateStore(*files)
    first.renew(renewed(authority, identity, 20))
    assert CertificateStore(*files).ends_at == first.ends_at == pytest.approx(time.time() + 20 * 86400, abs=60)
    (tmp_path / RENEWED_FILE).write_text("cut off in its mid")
    assert CertificateStore(*files).ends_at == pytest.approx(time.time() + 5 * 86400, abs=60)
