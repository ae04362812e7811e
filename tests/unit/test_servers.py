"""What looks after all servers of a fleet: which are due, what comes of some that fail, what is known then."""

import contextlib
import contextvars
import json
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.client_keys import ClientKeysProvider
from components.errors import ServerError, ServerUnreachable, ServingError
from components.servers import Server, call_servers, changed_servers
from components.validation import RerankValidationProvider
from components.vast.identity import own_key
from tests.unit.fake_vllm import KEY, FakeVllm

KEYS = ("model", "run")
NAMES = ("reranker", "reranker-2", "reranker-3")
SECRET = "secret-of-the-stack-0123456789"


def row(name, port=1, instance_id=1):
    return {"name": name, "url": f"http://127.0.0.1:{port}", "instance_id": instance_id, "nonce": name}


def due(olds, news):
    return [one.name for one in changed_servers(olds, news, KEYS)]


THREE = {"model": "m", "servers": [row(name, at, at) for at, name in enumerate(NAMES, start=1)]}


# ---- which are due


def test_all_are_due_where_nothing_was_recorded():
    assert due({}, THREE) == list(NAMES)


def test_none_is_due_where_nothing_changed_even_as_the_engine_returns_it():
    floats = [{**one, "instance_id": float(one["instance_id"])} for one in THREE["servers"]]
    assert due(THREE, {**THREE, "servers": floats}) == []


@pytest.mark.parametrize(("key", "value"), [("model", "other"), ("run", "again")])
def test_all_are_due_where_what_they_share_changed(key, value):
    assert due(THREE, {**THREE, key: value}) == list(NAMES)


@pytest.mark.parametrize("moved", [{"url": "http://127.0.0.1:9"}, {"instance_id": 9}])
def test_one_that_moved_or_was_replaced_is_due_alone(moved):
    servers = [one | moved if one["name"] == "reranker-2" else one for one in THREE["servers"]]
    assert due(THREE, {**THREE, "servers": servers}) == ["reranker-2"]


def test_one_that_is_new_is_due_alone_and_one_that_is_gone_makes_none_due():
    two = {**THREE, "servers": THREE["servers"][:2]}
    assert due(two, THREE) == ["reranker-3"]
    assert due(THREE, two) == []


# ---- each at once

SERVERS = Server.parse_all(THREE["servers"])


def test_what_came_of_each_is_returned_by_name():
    assert call_servers(SERVERS, lambda one: one.instance_id) == dict(zip(NAMES, (1, 2, 3), strict=True))
    assert call_servers([], lambda _one: 1) == {}


def test_all_are_asked_at_once_in_the_context_of_the_caller():
    together, row_of = threading.Barrier(3), contextvars.ContextVar("row", default="")
    row_of.set("urn:keys")

    def act(_server):
        together.wait(5)
        return row_of.get()

    assert set(call_servers(SERVERS, act).values()) == {"urn:keys"}


def test_those_that_fail_are_named_once_all_have_ended():
    ended = []

    def act(server):
        ended.append(server.name)
        if server.name != "reranker":
            raise ServerUnreachable(f"no answer from {server.url}")

    with pytest.raises(ServingError) as failed:
        call_servers(SERVERS, act)
    assert sorted(ended) == sorted(NAMES)
    assert str(failed.value).splitlines() == [
        "2 of 3 servers:",
        "reranker-2: no answer from http://127.0.0.1:2",
        "reranker-3: no answer from http://127.0.0.1:3",
    ]


def test_the_error_of_a_single_server_comes_as_it_is():
    def act(_server):
        raise ServerError("no", status=500)

    with pytest.raises(ServerError):
        call_servers(SERVERS[:1], act)


def test_a_bug_is_not_taken_for_a_server_that_fails():
    with pytest.raises(ZeroDivisionError):
        call_servers(SERVERS, lambda one: 1 // (one.instance_id - 2))


# ---- the client keys


class Guarded:
    """A server that holds keys, as the guard does, until it is closed; by its own key alone they are set."""

    def __init__(self, name):
        outer, own_is = self, own_key(SECRET, name)
        self.keys, self.told = set(), 0

        class Handler(BaseHTTPRequestHandler):
            def any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                digest = sha256(key.encode()).hexdigest()
                own = key == own_is
                if self.command == "PUT" and own:
                    outer.keys, outer.told = {one["sha256"] for one in json.loads(body)["keys"]}, outer.told + 1
                said = json.dumps({"keys": [{"name": "default", "sha256": one} for one in sorted(outer.keys)]}).encode()
                self.send_response(200 if own or digest in outer.keys else 401)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = any

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def guarded():
    found = {name: Guarded(name) for name in NAMES}
    yield found
    for one in found.values():
        with contextlib.suppress(OSError):
            one.close()


def keys_of(guarded, *keys):
    servers = [row(name, one.server.server_port, at) for at, (name, one) in enumerate(guarded.items())]
    return {
        "servers": servers,
        "stack_secret": SECRET,
        "clients": [{"name": "default", "key": key} for key in keys],
        "ca_certificate": "",
    }


def digests(*keys):
    return {sha256(key.encode()).hexdigest() for key in keys}


def test_only_a_server_that_is_new_is_told_the_keys(guarded):
    provider = ClientKeysProvider()
    third = guarded.pop("reranker-3")
    outs = provider.create(keys_of(guarded, "a")).outs
    assert outs["current"] == "a"
    guarded["reranker-3"] = third
    provider.update("x", outs, keys_of(guarded, "a"))
    assert {name: one.told for name, one in guarded.items()} == dict.fromkeys(NAMES, 1)
    assert third.keys == digests("a")


def test_a_server_that_stands_in_for_another_is_told_nothing(guarded):
    props = keys_of(guarded, "a")
    props["servers"][0]["url"] = props["servers"][1]["url"]
    with pytest.raises(Exception, match=r"reranker: .*401"):
        ClientKeysProvider().create(props)


def test_a_rotation_that_one_server_missed_fails_by_its_name_and_the_next_one_reaches_all(guarded):
    provider = ClientKeysProvider()
    outs = provider.create(keys_of(guarded, "a")).outs
    rotated = keys_of(guarded, "b", "a")
    guarded["reranker-2"].close()
    with pytest.raises(Exception, match=r"(?s)1 of 3 servers:.*reranker-2: ") as failed:
        provider.update("x", outs, rotated)
    assert type(failed.value).__name__ == "ServingError"
    assert guarded["reranker"].keys == digests("b", "a")

    seen = provider.read("x", outs).outs  # what the state knows is the old keys
    assert seen["drift"].endswith(": reranker, reranker-3")
    guarded["reranker-2"] = Guarded("reranker-2")
    outs = provider.update("x", seen, keys_of(guarded, "b", "a")).outs
    assert all(one.keys == digests("b", "a") for one in guarded.values())
    assert outs["drift"] == ""
    assert provider.read("x", outs).outs["drift"] == ""


def test_drift_of_the_keys_outlasts_a_server_that_cannot_be_asked_and_tells_a_healed_fleet_anew(guarded):
    provider = ClientKeysProvider()
    outs = provider.create(keys_of(guarded, "a")).outs
    guarded["reranker-2"].keys = digests("another")
    outs = provider.read("x", outs).outs
    assert outs["drift"].endswith(": reranker-2")
    guarded["reranker-2"].close()
    assert provider.read("x", outs).outs["drift"] == outs["drift"]
    guarded["reranker-2"] = Guarded("reranker-2")
    outs = provider.update("x", outs, keys_of(guarded, "a")).outs
    assert {one.told for one in guarded.values()} == {1, 2}
    assert all(one.keys == digests("a") for one in guarded.values())
    assert outs["drift"] == ""


def test_client_keys_that_are_deleted_leave_servers_that_take_no_clients_key(guarded):
    provider = ClientKeysProvider()
    outs = provider.create(keys_of(guarded, "a")).outs
    guarded["reranker-2"].close()
    provider.delete("x", outs)
    assert guarded["reranker"].keys == guarded["reranker-3"].keys == set()


# ---- the validation


@pytest.fixture
def fakes():
    with contextlib.ExitStack() as stack:
        found = {name: FakeVllm(MODEL) for name in NAMES}
        yield {name: (fake, stack.enter_context(fake.listening())) for name, fake in found.items()}


MODEL = "BAAI/bge-reranker-base"


def validated(fakes, *names, **ids):
    servers = [
        {"name": name, "url": fakes[name][1], "instance_id": ids.get(name.replace("-", "_"), 1)} for name in names
    ]
    return {"servers": servers, "api_key": KEY, "model": MODEL, "guard": False, "checks_version": 1}


def asked(fakes):
    """Return which servers were asked since the last look."""
    found = [name for name, (fake, _) in fakes.items() if fake.requests]
    for fake, _ in fakes.values():
        fake.requests.clear()
    return found


def test_a_validation_asks_those_that_are_due_and_its_summary_has_each_server_that_is_there(fakes):
    provider = RerankValidationProvider()
    outs = provider.create(validated(fakes, *NAMES[:2])).outs
    assert asked(fakes) == list(NAMES[:2])
    outs = provider.update("x", outs, validated(fakes, *NAMES)).outs
    assert asked(fakes) == ["reranker-3"]
    assert list(outs["summary"]["servers"]) == list(NAMES)
    assert all(one["checks"] for one in outs["summary"]["servers"].values())

    outs = provider.update("x", outs, validated(fakes, *NAMES[:2])).outs
    assert asked(fakes) == []
    assert list(outs["summary"]["servers"]) == list(NAMES[:2])
    assert outs["urls"] == [fakes[name][1] for name in NAMES[:2]]
    outs = provider.update("x", outs, validated(fakes, *NAMES, reranker_3=7)).outs
    assert asked(fakes) == ["reranker-3"]


def test_without_a_clients_key_each_server_is_asked_with_its_own(fakes):
    props = {**validated(fakes, *NAMES[:2]), "api_key": "", "stack_secret": SECRET}
    for one in props["servers"]:
        one["nonce"] = one["name"]
        fakes[one["name"]][0].key = own_key(SECRET, one["name"])
    assert RerankValidationProvider().create(props).outs["summary"]["passed"]


def test_one_server_that_fails_is_named_and_the_next_run_asks_all_that_were_due_again(fakes):
    provider = RerankValidationProvider()
    outs = provider.create(validated(fakes, "reranker")).outs
    asked(fakes)
    fakes["reranker-2"][0].fault = lambda path, _body, answer: (500, {}) if path == "/score" else answer
    with pytest.raises(Exception, match=r"(?s)1 of 2 servers:.*reranker-2: "):
        provider.update("x", outs, validated(fakes, *NAMES))
    assert asked(fakes) == ["reranker-2", "reranker-3"]
    fakes["reranker-2"][0].fault = lambda _path, _body, answer: answer
    outs = provider.update("x", outs, validated(fakes, *NAMES)).outs
    assert asked(fakes) == ["reranker-2", "reranker-3"]
    assert len(outs["urls"]) == 3
