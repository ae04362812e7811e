"""The client: what it sends, what it makes of answers, and what it says when there is none."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from components.errors import ServerError, ServerUnreachable
from components.vllm.client import RerankClient
from reranker.answers import ServedModel
from reranker.http import Unanswered
from tests.unit.fake_vllm import KEY, URL, Answer, FakeVllm

MODEL = "BAAI/bge-reranker-base"


def client(fake: FakeVllm, key: str | None = KEY) -> RerankClient:
    return RerankClient(URL + "/", key, transport=fake, timeout_s=7)


def answering(status: int, body: object) -> RerankClient:
    fake = FakeVllm()
    fake.fault = lambda _path, _body, _answer: (status, body)
    return client(fake)


def test_rerank_returns_documents_as_the_server_ordered_them_with_index_and_text() -> None:
    answer = client(FakeVllm()).rerank("deep learning", ["pizza", "deep learning is deep"], MODEL)
    assert answer.model == MODEL
    assert [(one.index, one.text) for one in answer.results] == [(1, "deep learning is deep"), (0, "pizza")]
    assert answer.results[0].score > answer.results[1].score


def test_rerank_sends_only_what_was_asked_for() -> None:
    fake = FakeVllm()
    asked = client(fake)
    asked.rerank("q", ("a", "b"))
    asked.rerank("q", ["a"], MODEL, truncate_prompt_tokens=-1)
    bodies = [body for _method, _path, body, _headers in fake.requests]
    assert bodies[0] == {"query": "q", "documents": ["a", "b"]}
    assert bodies[1] == {"query": "q", "documents": ["a"], "model": MODEL, "truncate_prompt_tokens": -1}


def test_key_goes_as_a_bearer_header_and_timeout_reaches_the_transport() -> None:
    fake = FakeVllm()
    client(fake).models()
    assert fake.requests[0][3]["Authorization"] == f"Bearer {KEY}"
    assert fake.options[0] == {"timeout_s": 7, "max_bytes": 4 << 20}


def test_score_comes_in_the_order_of_the_texts_whatever_order_the_server_lists() -> None:
    shuffled = {"data": [{"index": 1, "score": 0.2}, {"index": 0, "score": 0.9}]}
    assert answering(200, shuffled).score("q", ["a", "b"]) == (0.9, 0.2)


def test_models_tell_name_weights_and_context() -> None:
    assert client(FakeVllm()).models() == (ServedModel(MODEL, "/weights/it", 64),)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "The model `x` does not exist.", "code": 404}}, "The model `x` does not exist."),
        ({"error": "Unauthorized"}, "Unauthorized"),
        ({"detail": "Not Found"}, "Not Found"),
        (b"Internal Server Error", "Internal Server Error"),
        (["odd"], "odd"),
    ],
)
def test_error_carries_status_and_the_servers_own_words(body: object, words: str) -> None:
    with pytest.raises(ServerError, match=r"POST http://vllm.test:8000/rerank: HTTP 418") as caught:
        answering(418, body).rerank("q", ["d"])
    assert caught.value.status == 418
    assert words in caught.value.message


def test_refused_key_is_named_as_the_likely_cause() -> None:
    with pytest.raises(ServerError, match="HTTP 401: Unauthorized; the API key is missing or not this server's"):
        client(FakeVllm(), "wrong").models()


GOOD = {"index": 0, "document": {"text": "a"}, "relevance_score": 0.5}


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        [],
        {},
        {"results": None},
        {"results": ["x"]},
        {"results": [{**GOOD, "index": "0"}]},
        {"results": [{**GOOD, "index": True}]},
        {"results": [{**GOOD, "relevance_score": None}]},
        {"results": [{**GOOD, "relevance_score": "0.5"}]},
        {"results": [{"index": 0}]},
    ],
)
def test_rerank_body_that_is_not_vllms_is_an_error_that_says_so(body: object) -> None:
    with pytest.raises(ServerError, match="HTTP 200 with a body that is not vLLM's") as caught:
        answering(200, body).rerank("q", ["a"])
    assert caught.value.status == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": 3},
        {"data": [{"index": 1, "score": 0.5}]},
        {"data": [{"index": 0}]},
        {"data": [{"index": 0, "score": "x"}]},
    ],
)
def test_score_body_that_is_not_vllms_is_an_error_that_says_so(body: object) -> None:
    with pytest.raises(ServerError, match="/score: HTTP 200 with a body that is not vLLM's"):
        answering(200, body).score("q", ["a"])


@pytest.mark.parametrize("body", [{}, {"data": [{"root": "x"}]}, {"data": [{"id": "x", "max_model_len": "many"}]}])
def test_models_body_that_is_not_vllms_is_an_error_that_says_so(body: object) -> None:
    with pytest.raises(ServerError, match="/v1/models: HTTP 200 with a body that is not vLLM's"):
        answering(200, body).models()


def test_score_that_is_not_a_number_in_json_reaches_the_checks_as_nan() -> None:
    body = b'{"model": "m", "results": [{"index": 0, "relevance_score": NaN}]}'
    (one,) = answering(200, body).rerank("q", ["a"]).results
    assert one.score != one.score
    assert one.text is None


def test_silence_is_unreachable_and_says_how_long_was_waited() -> None:
    fake = FakeVllm()

    def silent(_path: str, _body: dict[str, object], _answer: Answer) -> Answer:
        raise Unanswered("no answer within 7 s", "timeout", sent=True)

    fake.fault = silent
    with pytest.raises(ServerUnreachable, match=r"POST http://vllm.test:8000/score: no answer within 7 s"):
        client(fake).score("q", ["d"])


def test_closed_port_is_unreachable_and_says_refused() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServerUnreachable, match=rf"GET http://127.0.0.1:{port}/v1/models: .*refused"):
        RerankClient(f"http://127.0.0.1:{port}", KEY).models()


def test_address_that_is_no_address_is_unreachable() -> None:
    with pytest.raises(ServerUnreachable, match="GET nonsense/v1/models"):
        RerankClient("nonsense", KEY).models()


def test_key_is_in_no_repr_and_in_no_error_even_when_the_server_echoes_it() -> None:
    echoes = [answering(400, {"error": {"message": f"bad header Bearer {KEY}"}}), answering(200, {"you sent": KEY})]
    for asked in echoes:
        with pytest.raises(ServerError) as caught:
            asked.rerank("q", ["d"])
        assert KEY not in str(caught.value) + caught.value.message + repr(caught.value)
        assert "[redacted]" in str(caught.value)
        assert KEY not in repr(asked)


def test_long_error_bodies_are_cut() -> None:
    with pytest.raises(ServerError) as caught:
        answering(500, {"error": {"message": "x" * 5000}}).rerank("q", ["d"])
    assert len(str(caught.value)) < 450


def whole(line: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"}") and (more := line.recv(65536)):
        got += more
    return got


@contextlib.contextmanager
def closing_after_each_answer(answers: int) -> Iterator[tuple[str, list[bytes]]]:
    """A server that promises to keep its connection, answers once and closes it; then it answers nothing at all."""
    body = json.dumps({"model": "m", "results": []}).encode()
    said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for number in range(answers + 2):
                with contextlib.suppress(OSError), listener.accept()[0] as line:
                    seen.append(whole(line))
                    if number < answers:
                        line.sendall(said)
                        seen.append(whole(line))  # the next request has come before the connection is closed

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen


def test_a_request_on_a_connection_that_the_server_has_closed_meanwhile_is_sent_again() -> None:
    with closing_after_each_answer(2) as (url, seen):
        client = RerankClient(url, KEY, timeout_s=5)
        client.rerank("q", ["first"], "m")
        client.rerank("q", ["second"], "m")
    assert [b"second" in one for one in seen[:3]] == [False, True, True]


def test_a_server_that_keeps_closing_is_unreachable_after_the_second_try() -> None:
    with (
        closing_after_each_answer(0) as (url, seen),
        pytest.raises(ServerUnreachable, match="the connection is cut off"),
    ):
        RerankClient(url, KEY, timeout_s=5).rerank("q", ["first"], "m")
    assert len(seen) == 2


@pytest.mark.parametrize(("status", "hinted"), [(401, True), (403, False), (400, False)])
def test_the_key_is_suspected_only_where_the_server_says_so(status: int, hinted: bool) -> None:
    fake = FakeVllm()
    fake.fault = lambda _path, _body, _answer: (status, {"error": {"message": "blocked by the firewall"}})
    with pytest.raises(ServerError, match="blocked by the firewall") as caught:
        client(fake).models()
    assert ("the API key is missing" in str(caught.value)) == hinted
