"""The guard under random requests, as ASGI sees them: 7,500 random cases, and 2,500 that are always the same.

Through sockets and parsers: test_guard_sockets.

What may come in is said a second time here, from the request alone: one Authorization header, one of the keys, an
allowed path written plainly. Whatever else reaches the server behind the guard is a bypass.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.vllm import guard as source
from components.vllm.guard import Guard
from tests.unit.guard_requests import (
    DIGESTS,
    KEY,
    KEYS,
    OPTIONS,
    App,
    ask_guard,
    bodies,
    fuzz,
    is_for_the_guard,
    is_good_body,
    json_values,
    lengths,
    may_come_in,
    refused_properly,
    run,
    scopes,
    short_and,
    streams,
)


@short_and(4000)
def test_nothing_but_a_key_on_an_allowed_path_reaches_the_server(drawn):
    counted = {"cases": 0, "in": 0, "own": 0, 401: 0, 404: 0}

    @drawn
    @given(scopes())
    def each(scope):
        counted["cases"] += 1
        reached, sent = ask_guard(Guard, scope, [{"type": "http.request", "body": b"{}"}])
        assert len(reached) == may_come_in(scope)
        if is_for_the_guard(scope):
            counted["own"] += 1
            if scope["path"] == source.KEYS and scope["method"] == "PUT":
                assert refused_properly(sent) == 400  # {} names no keys
            else:
                assert sent[0]["status"] == 200
                assert json.loads(sent[1]["body"]) in ({"routes": []}, {"keys": [DIGESTS[1]]})
        elif reached:
            counted["in"] += 1
            assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]
        else:
            counted[refused_properly(sent)] += 1

    each()
    assert counted["cases"] >= drawn.max_examples
    assert min(counted.values()) > drawn.max_examples / 50, counted  # each outcome was really tried


@pytest.mark.parametrize("truncate", [None, -1])
@short_and(1250)
def test_a_body_reaches_the_server_only_as_json_that_it_can_answer(truncate, drawn):
    counted = {"cases": 0, "in": 0, "refused": 0, "gone": 0}

    @drawn
    @given(streams(), st.sampled_from(["/rerank", "/v2/rerank", "/score"]), lengths)
    def each(stream, path, length):
        counted["cases"] += 1
        body, messages, broken = stream
        headers = [(b"authorization", b"Bearer " + KEYS[0].encode())]
        headers += [(b"content-length", length)] if length is not None else [(b"Transfer-Encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
        reached, sent = ask_guard(Guard, scope, messages, OPTIONS | {"truncate": truncate})
        declared_too_large = length is not None and length.isdigit() and int(length) > OPTIONS["max_bytes"]
        if declared_too_large or (not broken and len(body) > OPTIONS["max_bytes"]):
            assert refused_properly(sent) == 413
            assert not reached
        elif broken:
            counted["gone"] += 1
            assert not reached
            assert not sent or refused_properly(sent) == 413
        elif not is_good_body(body):
            counted["refused"] += 1
            assert refused_properly(sent) == 400
            assert not reached
        else:
            counted["in"] += 1
            [(inner, got)] = reached
            inner_headers = [(name.lower(), value) for name, value in inner["headers"]]
            assert [value for name, value in inner_headers if name == b"content-length"] == [str(len(got)).encode()]
            assert not [name for name, _ in inner_headers if name == b"transfer-encoding"]
            asked = json.loads(body)
            if isinstance(asked, dict):
                asked = {name: value for name, value in asked.items() if value is not None}  # null is not given
                if truncate is not None:
                    asked = {"truncate_prompt_tokens": truncate} | asked
            assert json.loads(got) == asked

    each()
    assert counted["cases"] >= drawn.max_examples
    assert min(counted.values()) > drawn.max_examples / 20, counted


digests = st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40)).map(bytes.hex)
whole = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=40)
key_lists = st.one_of(whole, whole, st.lists(digests, max_size=40), st.lists(json_values, max_size=3), json_values)
key_bodies = st.one_of(key_lists.map(lambda keys: json.dumps({"keys": keys}).encode()), bodies)


@short_and(1000)
def test_only_a_list_of_digests_changes_the_keys(drawn):
    counted = {"cases": 0, 200: 0, 400: 0, 413: 0}

    @drawn
    @given(key_bodies)
    def each(body):
        counted["cases"] += 1
        headers = [(b"authorization", b"Bearer " + KEY)]
        guard, sent = Guard(App(), OPTIONS, KEYS), []
        scope = {"type": "http", "method": "PUT", "path": source.KEYS, "headers": headers}

        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        run(guard(scope, receive, send))
        assert guard.keys[0].hex() == DIGESTS[0]
        if sent[0]["status"] == 200:
            counted[200] += 1
            held = [one.hex() for one in guard.keys[1:]]
            assert held == json.loads(sent[1]["body"])["keys"]
            assert held == ([one.lower() for one in json.loads(body)["keys"]] if body else DIGESTS[1:])
            assert len(held) <= source.MAX_KEYS
        else:
            counted[refused_properly(sent)] += 1
            assert guard.keys[1].hex() == DIGESTS[1]

    each()
    assert min(counted[200], counted[400]) > drawn.max_examples / 20, counted


@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
def test_no_other_kind_of_connection_reaches_the_server(kind):
    @fuzz(300)
    @given(scopes())
    def each(scope):
        reached, sent = ask_guard(Guard, scope | {"type": kind})
        assert not reached
        assert sent == [{"type": "websocket.close", "code": 1008}]

    each()


@pytest.mark.parametrize("separator", [",", ", ", ",,"])
def test_a_list_of_keys_never_holds_an_empty_key(separator, monkeypatch):
    monkeypatch.setenv("GUARD_KEYS", separator.join(["", *KEYS, ""]))
    guard = Guard(App())
    for value in (b"Bearer ", b"Bearer", b"Bearer  ", b""):
        scope = {"type": "http", "method": "POST", "path": "/rerank", "headers": [(b"authorization", value)]}
        assert not may_come_in(scope)
        with pytest.raises(Exception, match="401"):
            guard.admit(scope)
