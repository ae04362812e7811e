"""The doors: every route of a server is tried by everyone who may not come in, and an open one is seen."""

import re
from types import SimpleNamespace

import pytest

from components.errors import ServerUnreachable
from components.vllm.client import RerankClient
from components.vllm.doors import DOORS, MAIN_DOORS, Door, doors_of, routes_of, strangers, table, tried
from components.vllm.guard import Guard, registered
from components.vllm.judges import judge_doors, judge_listed
from tests.unit.test_guard_fuzz import KEYS
from tests.unit.test_guard_sockets import App, Listening


def route(path, *methods):
    return SimpleNamespace(path=path, methods=set(methods) or None)


def included(*inner):
    """What FastAPI from 0.137 makes of an included router: a route without a path."""
    return SimpleNamespace(effective_route_contexts=lambda: list(inner))


ROUTES = [
    route("/rerank", "POST"),
    included(route("/score", "POST"), route("/loras/{name}", "DELETE")),
    route("/metrics"),
]


class Routed(App):
    """An application that has routes, as Starlette's puts itself into the scope."""

    async def __call__(self, scope, receive, send):
        scope["app"] = SimpleNamespace(routes=ROUTES)
        await self.inner(scope, receive, send)


@pytest.fixture(scope="module")
def server():
    with Listening("httptools") as listening:
        guarded = Routed()
        guarded.inner = Guard(listening.app, {}, KEYS)
        listening.server.config.loaded_app = guarded
        yield listening


def client(server, key=KEYS[0]):
    host, port = server.address[:2]
    return RerankClient(f"http://{host}:{port}", key, timeout_s=10)


def test_routes_of_included_routers_are_listed_with_their_methods():
    assert list(registered(SimpleNamespace(routes=ROUTES))) == [
        ["/rerank", ["POST"]],
        ["/score", ["POST"]],
        ["/loras/{name}", ["DELETE"]],
        ["/metrics", []],
    ]
    assert list(registered(None)) == []


def test_the_servers_own_list_adds_its_routes_and_methods_to_the_doors(server):
    doors = {door.path: door.methods for door in doors_of(routes_of(client(server)))}
    assert set(doors) == {*DOORS, "/loras/x"}
    assert doors["/loras/x"] == ("GET", "POST", "DELETE")


def test_a_server_that_lists_nothing_is_tried_by_the_list_of_vllms_routes(server):
    assert routes_of(client(server, key="unknown")) == ()
    assert [door.path for door in doors_of(())] == list(DOORS)
    assert judge_listed([]).skipped
    assert not judge_listed(["/docs"]).passed


def test_behind_a_guard_every_door_is_closed_to_everyone_without_the_key(server):
    found = tried(client(server), doors_of(routes_of(client(server))), strangers(KEYS[0], in_query=True))
    for who in ("no key", "a wrong key", "the key in a wrong place"):
        check = judge_doors(who, {door.path: door.statuses[who] for door in found})
        assert check.passed, check.saw
    assert "| /loras/x | GET POST DELETE | 404 | 404 | 404 |" in table(found)
    assert KEYS[0] not in table(found)


def test_a_door_that_a_guard_leaves_open_is_named():
    with Listening("httptools") as open_health:
        found = tried(client(open_health), [Door("/health", ("GET", "POST"))], strangers(KEYS[0]))
    check = judge_doors("no key", {door.path: door.statuses["no key"] for door in found})
    assert not check.passed
    assert found[0].statuses["no key"] == (299, 404)


def test_the_main_doors_alone_tell_a_server_that_has_no_guard(server):
    closed = tried(client(server), MAIN_DOORS, strangers(KEYS[0]))
    assert judge_doors("no key", {door.path: door.statuses["no key"] for door in closed}).passed
    with Listening("httptools") as bare:
        bare.server.config.loaded_app = bare.app
        found = tried(client(bare), MAIN_DOORS, strangers(KEYS[0]))
    check = judge_doors("no key", {door.path: door.statuses["no key"] for door in found})
    assert "4 of 4 routes answer" in check.saw


def test_a_wrong_key_is_one_letter_off_and_no_valid_key_goes_where_servers_log():
    asked = strangers("secret-key-9")["a wrong key"]("/rerank")
    assert asked[1]["Authorization"] == "Bearer secret-key-0"
    assert strangers("secret-key-0")["a wrong key"]("/")[1]["Authorization"] == "Bearer secret-key-1"
    assert all("secret-key-9" not in who("/rerank")[0] for who in strangers("secret-key-9").values())
    assert list(strangers(None)) == ["no key", "a wrong key"]


def test_a_server_that_goes_away_is_an_error_that_names_the_door_and_not_the_key():
    gone = RerankClient("http://127.0.0.1:9", KEYS[0], timeout_s=2)
    with pytest.raises(ServerUnreachable, match=re.escape("GET http://127.0.0.1:9/rerank")) as caught:
        tried(gone, [Door("/rerank", ("GET",))], strangers(KEYS[0], in_query=True))
    assert KEYS[0] not in str(caught.value)
