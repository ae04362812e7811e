"""What is so for every call, whatever it is about: keys, paths, pacing, refusals of what cannot be read."""

import re

import pytest
import requests

from emulator.server import EmulatorServer
from tests.emulator.client import JSON, KEY, Client


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "1/instances/", 401), ("GET", "0/instances/5/", 401), ("DELETE", "0/instances/5/", 401),
    ("PUT", "0/asks/5/", 401), ("POST", "0/bundles/", 404),
])  # fmt: skip
def test_a_wrong_key_is_refused_as_vast_does(vast, method, path, status):
    refused = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
    for answer in (
        Client(vast.url, "wrong").call(method, path, {}),
        requests.request(method, f"{vast.url}/api/v{path}", json={}, params={"api_key": "wrong"}, timeout=5),
    ):
        assert (answer.status_code, answer.json()) == (status, refused)


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "1/instances/"), ("GET", "0/instances/5/"), ("DELETE", "0/instances/5/"), ("PUT", "0/asks/5/"),
])  # fmt: skip
def test_only_a_search_is_answered_without_a_key(vast, method, path):
    assert requests.request(method, f"{vast.url}/api/v{path}", json={}, timeout=5).status_code == 401
    assert requests.post(f"{vast.url}/api/v0/bundles/", json={"limit": 2}, timeout=5).json()["offers"]


def test_a_key_may_be_a_parameter(vast):
    answer = requests.get(f"{vast.url}/api/v1/instances/", params={"api_key": KEY}, timeout=5)
    assert (answer.status_code, answer.json()["instances"]) == (200, [])


def test_an_account_may_get_404_for_a_wrong_key_where_instances_are_read(vast):
    vast.control("wrong-key", status=404)
    wrong = Client(vast.url, "wrong")
    for path in ("1/instances/", "0/instances/5/"):
        answer = wrong.call("GET", path)
        assert (answer.status_code, answer.json()["error"]) == (404, "auth_error")
    assert wrong.call("DELETE", "0/instances/5/").status_code == 401


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "1/instances"), ("GET", "0/users/current"), ("POST", "0/bundles"), ("GET", "0/ssh"),
    ("PUT", "0/instances/request_logs/{id}"), ("GET", "0/instances/{id}"), ("DELETE", "0/instances/{id}"),
])  # fmt: skip
def test_a_path_is_answered_without_the_slash_at_its_end(vast, method, path):
    path = path.format(id=vast.rent() if "{id}" in path else "")
    assert vast.call(method, path, {} if method != "GET" else None).status_code == 200


def test_answers_are_bare_json_and_a_double_slash_is_taken(vast):
    answer = vast.session.post(f"{vast.url}//api/v0/bundles/", json={"limit": 2}, timeout=10)
    assert answer.headers["Content-Type"] == "application/json"
    assert len(answer.json()["offers"]) == 2


def test_both_forms_of_search_find_the_same(vast):
    query = {"num_gpus": {"eq": "1"}, "order": [["dph_total", "asc"]], "limit": 5}
    new = vast.call("PUT", "0/search/asks/", {"select_cols": ["*"], "q": query}).json()["offers"]
    old = vast.call("POST", "0/bundles/", query).json()["offers"]
    assert [one["id"] for one in new] == [one["id"] for one in old]


def test_calls_that_come_too_fast_are_refused_where_pacing_is_published(tmp_path):
    with EmulatorServer(pacing=True, state_dir=tmp_path) as server:
        vast = Client(server.url)
        first, second = (vast.call("GET", "1/instances/") for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 429)
        assert second.json() == {"detail": "API requests too frequent endpoint threshold=1.0"}
        searches = [vast.call("POST", "0/bundles/", {"limit": 1}).status_code for _ in range(11)]
        assert searches == [200] * 10 + [429]


def test_each_path_has_its_own_pace(tmp_path):
    with EmulatorServer(pacing=True, state_dir=tmp_path) as server:
        vast = Client(server.url)
        instance_id = vast.rent()
        label, reboot = (
            ("PUT", f"0/instances/{instance_id}/", {"label": "x"}),
            ("PUT", f"0/instances/reboot/{instance_id}/"),
        )
        assert [vast.call(*one).status_code for one in (label, reboot, label, reboot)] == [200, 200, 429, 429]
        assert vast.call("PUT", "0/instances/bid_price/5/", {"price": 1}).status_code == 404
        again = vast.call("PUT", "0/instances/bid_price/5/", {"price": 1})
        assert again.json() == {"detail": "API requests too frequent endpoint threshold=5.5"}


@pytest.mark.parametrize(("method", "path", "body"), [
    ("POST", "0/bundles/", []), ("POST", "0/bundles/", {"limit": "many"}), ("PUT", "0/instances/prepay/{id}/", {}),
    ("PUT", "0/asks/{ask}/", {"image": "x", "disk": "?"}), ("PUT", "0/instances/", {"ids": ["x"], "state": "running"}),
    ("PUT", "0/asks/{ask}/", {"image": "x", "args_str": "'"}),
    ("PUT", "0/asks/{ask}/", {"image": "x", "runtype": "args", "args_str": "'"}),
    ("PUT", "0/instances/update_template/{id}/", {"env": [1]}), ("POST", "0/asks/bulk/", {}), ("PUT", "0/ssh/x/", {}),
    ("PUT", "0/instances/update_template/{id}/", {"args": "'"}), ("POST", "0/bundles/", {"order": [1]}),
])  # fmt: skip
def test_no_refusal_speaks_of_python(vast, method, path, body):
    path = path.format(ask=vast.offer()["id"], id=vast.rent() if "{id}" in path else "")
    answer = vast.call(method, path, body)
    assert answer.status_code == 400
    assert all(row["extra_env"] for row in vast.rows())  # what was there is as before
    assert not re.search("Error|NoneType|int\\(\\)|'[a-z_]+' object", answer.json()["msg"])


def test_requests_are_counted_by_method_and_path(vast):
    vast.control("requests/reset")
    instance_id = vast.rent()
    vast.show(instance_id)
    vast.show(instance_id)
    counts = vast.get_control("requests")
    assert counts["requests"]["GET /api/v0/instances/{id}/"] == 2
    assert counts["requests"]["PUT /api/v0/asks/{id}/"] == 1
    assert counts["total"] == 4


def test_nonsense_is_answered_with_an_error_body(vast):
    assert vast.call("GET", "0/nothing/").status_code == 404
    assert vast.call("GET", "0/nothing/").json()["error"] == "not_found"
    assert vast.call("GET", "0/instances/abc/").status_code == 400
    answer = vast.session.post(f"{vast.url}/api/v0/bundles/", data="{", headers=JSON, timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert vast.call("POST", "0/bundles/", {"num_gpus": {"about": 1}}).status_code == 400
