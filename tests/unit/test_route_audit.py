"""The route audit: each unauthorized caller requests every route of a server, and an open one is found."""

import asyncio
import json
import re
from dataclasses import replace
from urllib.parse import urlencode

import pytest

from components.errors import ServerUnreachable
from components.vllm.client import RerankClient
from components.vllm.route_audit import (
    MAIN_ROUTES,
    ROUTES_OF_VLLM,
    AuditedRoute,
    audit_routes,
    list_routes,
    markdown_table,
    routes_to_audit,
    unauthorized_callers,
)
from components.vllm.score_checks import judge_closed, judge_listed
from emulator.stub_faults import ServerFault
from emulator.stub_server import StubServer, listener
from harness.guard import guarded
from tests.unit.guard_requests import KEYS, App

DESCRIBED = {
    "paths": {"/rerank": {"post": {}}, "/score": {"post": {}}, "/loras/{name}": {"delete": {}, "parameters": []}}
}


class Described(App):
    """An application that describes its routes, as FastAPI does."""

    async def __call__(self, scope, receive, send):
        if scope["path"] != "/openapi.json":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(DESCRIBED).encode()})


@pytest.fixture(scope="module")
def server():
    with guarded(Described(), KEYS[0]) as listening:
        yield listening


def client(server, key=KEYS[0]):
    host, port = server.address[:2]
    return RerankClient(f"http://{host}:{port}", key, timeout_s=10)


def with_key_in_query(route, key):
    query = urlencode({"api_key": key, "key": key, "access_token": key})
    return replace(route, path=f"{route.path}?{query}")


def test_routes_are_listed_with_their_methods(server):
    assert list_routes(client(server)) == (
        ("/rerank", ("POST",)),
        ("/score", ("POST",)),
        ("/loras/{name}", ("DELETE",)),
    )


def test_the_servers_own_list_adds_its_routes_and_methods_to_the_audit(server):
    audited = {route.path: route.methods for route in routes_to_audit(list_routes(client(server)))}
    assert set(audited) == {*ROUTES_OF_VLLM, "/loras/x"}
    assert audited["/loras/x"] == ("GET", "POST", "DELETE")


def test_a_server_that_lists_nothing_is_tried_by_the_list_of_vllms_routes(server):
    assert list_routes(client(server, key="unknown")) == ()
    assert [route.path for route in routes_to_audit(())] == list(ROUTES_OF_VLLM)
    assert judge_listed([]).skipped
    assert not judge_listed(["/docs"]).passed


def test_behind_a_guard_every_route_is_closed_to_everyone_without_the_key(server):
    audited, callers = routes_to_audit(list_routes(client(server))), unauthorized_callers(KEYS[0])
    found = audit_routes(client(server), audited, callers)
    for route in audit_routes(client(server), [with_key_in_query(one, KEYS[0]) for one in audited], callers):
        assert all(set(statuses) <= {401, 404} for statuses in route.statuses.values()), route.path
    for who in ("no key", "a wrong key", "the key in a wrong place"):
        check = judge_closed(who, {route.path: route.statuses[who] for route in found})
        assert check.passed, check.saw
    assert "| /loras/x | GET POST DELETE | 404 | 404 | 404 |" in markdown_table(found)
    assert KEYS[0] not in markdown_table(found)


def test_a_route_that_a_guard_leaves_open_is_named():
    with guarded(App(), KEYS[0], {"open_health": True}) as open_health:
        found = audit_routes(
            client(open_health), [AuditedRoute("/health", ("GET", "POST"))], unauthorized_callers(KEYS[0])
        )
    check = judge_closed("no key", {route.path: route.statuses["no key"] for route in found})
    assert not check.passed
    assert found[0].statuses["no key"] == (299, 404)


def test_the_main_routes_alone_show_that_a_server_has_no_guard(server):
    callers = unauthorized_callers(KEYS[0])
    closed = audit_routes(client(server), MAIN_ROUTES, callers)
    assert judge_closed("no key", {route.path: route.statuses["no key"] for route in closed}).passed
    listening = listener("127.0.0.1", 0)
    bare = StubServer(App(), listening, ServerFault)
    asked = RerankClient("http://{}:{}".format(*listening.getsockname()), KEYS[0])

    async def audit_bare():
        serving = asyncio.create_task(bare.serve())
        found = await asyncio.to_thread(audit_routes, asked, MAIN_ROUTES, callers)
        serving.cancel()
        return found

    found = asyncio.run(audit_bare())
    check = judge_closed("no key", {route.path: route.statuses["no key"] for route in found})
    assert "4 of 4 routes answer" in check.saw


def test_a_wrong_key_is_one_letter_off():
    for key, wrong in (("secret-key-9", "secret-key-0"), ("secret-key-0", "secret-key-1")):
        headers, _ = unauthorized_callers(key)["a wrong key"]
        assert headers["Authorization"] == f"Bearer {wrong}"
    assert list(unauthorized_callers(None)) == ["no key", "a wrong key"]


def test_a_server_that_goes_away_is_an_error_that_names_the_route_and_not_the_key():
    gone = RerankClient("http://127.0.0.1:9", KEYS[0], timeout_s=2)
    with pytest.raises(ServerUnreachable, match=re.escape("GET http://127.0.0.1:9/rerank")) as caught:
        audit_routes(
            gone, [with_key_in_query(AuditedRoute("/rerank", ("GET",)), KEYS[0])], unauthorized_callers(KEYS[0])
        )
    assert KEYS[0] not in str(caught.value)
