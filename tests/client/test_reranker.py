"""The client against the guarded TLS server: what it returns, what it splits, what it repeats, what it says."""

import asyncio
import json
import pickle
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from emulator.scoring import overlap
from reranker import (
    Busy,
    InvalidInput,
    KeyRefused,
    Limits,
    MalformedAnswer,
    Patience,
    Ranked,
    Reranker,
    ServedModel,
    ServerError,
    Unreachable,
    Untrusted,
)
from reranker.endpoint import Endpoint
from reranker.http import tls_context
from tests.client.guarded import KEY, MODEL, certificates, guarded_server, refusal

QUERY = "What is deep learning?"
DOCUMENTS = ["I like pizza.", "Deep learning is machine learning.", "The weather is nice.", "Deep learning?"]
QUICK = Patience(connect_s=2, timeout_s=5, deadline_s=10, first_wait_s=0.01, longest_wait_s=0.05)


class Clock:
    """Time that passes only while something sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def reranker(server):
    with Reranker.from_url(server.url, KEY, server.ca, patience=QUICK) as client:
        yield client


def on_clock(server, clock, **options):
    options = {"patience": Patience(first_wait_s=1, longest_wait_s=4, deadline_s=20)} | options
    return Reranker.from_url(server.url, KEY, server.ca, clock=clock, sleep=clock.sleep, chance=lambda: 0.0, **options)


def expected(documents, query=QUERY):
    return sorted(((overlap(query, text), -index) for index, text in enumerate(documents)), reverse=True)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_rerank_returns_documents_best_first_with_index_score_and_text(reranker):
    ranking = reranker.rerank(QUERY, DOCUMENTS)
    assert ranking.model == MODEL
    assert [(one.score, -one.index) for one in ranking] == expected(DOCUMENTS)
    assert all(one.text == DOCUMENTS[one.index] for one in ranking)
    assert len(ranking) == 4
    assert ranking[0] == Ranked(3, overlap(QUERY, DOCUMENTS[3]), DOCUMENTS[3])


def test_top_n_and_min_score_cut(reranker):
    assert [one.index for one in reranker.rerank(QUERY, DOCUMENTS, 2)] == [3, 1]
    assert [one.index for one in reranker.rerank(QUERY, DOCUMENTS, top_n=9, min_score=0.5)] == [3, 1]


def test_equal_scores_come_in_the_order_of_the_documents(server, reranker):
    results = [{"index": index, "relevance_score": 0.5} for index in (2, 0, 1)]
    server.fail((200, [], json.dumps({"model": MODEL, "results": results}).encode()))
    assert [one.index for one in reranker.rerank("q", ["a", "b", "c"])] == [0, 1, 2]


def test_only_what_is_given_is_sent(server, reranker):
    reranker.rerank("q", ["d"])
    reranker.rerank("q", ["d"], 5, model=MODEL, truncate_prompt_tokens=-1)
    bodies = [body for _, body in server.asked()]
    assert bodies[0] == {"query": "q", "documents": ["d"]}
    assert bodies[1] == {"query": "q", "documents": ["d"], "top_n": 1, "model": MODEL, "truncate_prompt_tokens": -1}


def test_the_model_of_the_endpoint_is_asked_for_and_an_unknown_one_is_a_server_error(server):
    client = Reranker.from_url(server.url, KEY, server.ca_file, model="other/model")
    with pytest.raises(ServerError, match="HTTP 404: The model `other/model` does not exist") as caught:
        client.rerank("q", ["d"])
    assert caught.value.status == 404


def test_score_takes_one_pair_one_with_many_and_lists_of_pairs(reranker):
    one, two = DOCUMENTS[1], DOCUMENTS[0]
    assert reranker.score(QUERY, one) == (overlap(QUERY, one),)
    assert reranker.score(QUERY, [one, two]) == (overlap(QUERY, one), overlap(QUERY, two))
    assert reranker.score([one, two], [one, one]) == (overlap(one, one), overlap(two, one))


def test_no_documents_is_an_empty_answer_and_no_request(server, reranker):
    assert len(reranker.rerank(QUERY, [])) == 0
    assert reranker.score(QUERY, []) == ()
    assert server.asked() == []


def test_models_says_what_is_served(reranker):
    assert reranker.models() == (ServedModel(MODEL, MODEL, 512),)


def test_an_over_long_document_is_refused_with_the_servers_words_or_cut_on_request(reranker):
    with pytest.raises(ServerError, match="maximum context length is 512 tokens"):
        reranker.rerank("q", ["word " * 1000])
    assert len(reranker.rerank("q", ["word " * 1000], truncate_prompt_tokens=-1)) == 1


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_2500_documents_are_three_requests_and_one_ranking(server, reranker):
    documents = [f"deep {'learning ' * (n % 3)} number {n}" for n in range(2500)]
    ranking = reranker.rerank(QUERY, documents)
    assert sorted(len(body["documents"]) for _, body in server.asked()) == [500, 1000, 1000]
    assert [(one.score, -one.index) for one in ranking] == expected(documents)
    assert all(one.text == documents[one.index] for one in ranking)


def test_top_n_of_split_documents_is_the_best_of_all(server, reranker):
    documents = [f"pizza {n}" for n in range(1500)]
    documents[1203], documents[7] = "deep learning", "deep deep learning things"
    ranking = reranker.rerank(QUERY, documents, 2)
    assert [one.index for one in ranking] == [1203, 7]
    assert all(body["top_n"] == 2 for _, body in server.asked())


def test_documents_of_more_than_8_mib_are_split_by_bytes_and_none_is_refused(server, reranker):
    documents = [f"{n} " + "é" * (1 << 19) for n in range(20)]  # 1 MiB each in UTF-8
    ranking = reranker.rerank(QUERY, documents)
    assert sorted(one.index for one in ranking) == list(range(20))
    sizes = [len(body) for _, body in server.faulty.bodies]
    assert len(sizes) == 3
    assert max(sizes) <= 8 << 20
    assert max(sizes) > 7 << 20


def test_a_document_that_no_request_can_hold_is_named_before_anything_is_sent(server, reranker):
    with pytest.raises(InvalidInput, match=r"documents\[1\] is too large: \d+ bytes by itself, of 8388608 allowed"):
        reranker.rerank(QUERY, ["a", "b" * (9 << 20)])
    assert server.asked() == []


def test_pairs_are_split_and_keep_their_order(server):
    with Reranker.from_url(server.url, KEY, server.ca, limits=Limits(documents=7)) as client:
        firsts = [f"deep {n}" for n in range(20)]
        seconds = [f"deep {n % 4}" for n in range(20)]
        assert client.score(firsts, seconds) == tuple(map(overlap, firsts, seconds))
        assert client.score("deep 1", seconds) == tuple(overlap("deep 1", text) for text in seconds)
    assert len(server.asked()) == 6


def test_batches_run_side_by_side_but_no_more_than_allowed(server):
    met = threading.Event()

    async def hold(faulty):
        # the first waits for a second: only requests that run at once get through
        for _ in range(500):
            if met.is_set() or faulty.in_flight >= 2:
                met.set()
                return
            await asyncio.sleep(0.01)

    server.faulty.hold = hold
    limits = Limits(documents=1)
    with Reranker.from_url(server.url, KEY, server.ca, limits=limits, concurrency=2) as client:
        assert len(client.rerank(QUERY, DOCUMENTS * 3)) == 12
    assert met.is_set()
    assert server.faulty.most_in_flight == 2


def test_a_server_with_lower_limits_gets_halves(tmp_path):
    options = {"max_documents": 3, "max_bytes": 4000}
    with guarded_server(tmp_path, options=options) as server, Reranker.from_url(server.url, KEY, server.ca) as client:
        ranking = client.rerank(QUERY, DOCUMENTS * 3)
        assert [(one.score, -one.index) for one in ranking] == expected(DOCUMENTS * 3)
        assert len(client.rerank(QUERY, ["x" * 1500] * 3)) == 3
        with pytest.raises(ServerError, match="HTTP 413"):
            client.rerank(QUERY, ["x" * 5000])


def test_the_first_failure_of_a_batch_is_raised(server):
    server.fail(None, refusal(400, "first bad"), refusal(400, "then bad"))
    client = Reranker.from_url(server.url, KEY, server.ca, limits=Limits(documents=1), concurrency=1)
    with pytest.raises(ServerError, match="first bad"):
        client.rerank(QUERY, DOCUMENTS)


def test_many_threads_share_one_client(reranker):
    def ask(n):
        return reranker.rerank(f"deep number {n}", [f"number {m}" for m in range(5)])[0].index

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, [0, 1, 2, 3, 4] * 8)) == [0, 1, 2, 3, 4] * 8


# ---- repetition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [refusal(429), refusal(502), refusal(503), refusal(504), "drop"])
def test_what_may_pass_is_asked_again(server, reranker, fault):
    server.fail(fault, fault)
    assert reranker.rerank(QUERY, DOCUMENTS)[0].index == 3
    assert len(server.asked()) == 3


@pytest.mark.parametrize("status", [400, 404, 405, 500])
def test_what_will_not_pass_is_asked_once(server, reranker, status):
    server.fail(refusal(status, "so it is"))
    with pytest.raises(ServerError, match=f"HTTP {status}: so it is") as caught:
        reranker.rerank(QUERY, DOCUMENTS)
    assert (caught.value.status, caught.value.message) == (status, "so it is")
    assert len(server.asked()) == 1


def test_waits_grow_to_the_longest_and_end_at_the_deadline(server):
    clock = Clock()
    server.fail(*[refusal(503, "loading")] * 50)
    with pytest.raises(Busy, match=r"HTTP 503: loading \(asked 7 times\)"):
        on_clock(server, clock).rerank(QUERY, DOCUMENTS)
    assert clock.slept == [1, 2, 4, 4, 4, 4]


def test_chance_shortens_a_wait_by_up_to_half(server):
    clock = Clock()
    server.fail(refusal(503), refusal(503))
    client = Reranker.from_url(
        server.url,
        KEY,
        server.ca,
        clock=clock,
        sleep=clock.sleep,
        chance=lambda: 1.0,
        patience=Patience(first_wait_s=1),
    )
    client.rerank(QUERY, DOCUMENTS)
    assert clock.slept == [0.5, 1.0]


def test_retry_after_is_honoured(server):
    clock = Clock()
    server.fail(refusal(429, retry_after=7), refusal(503, retry_after=0))
    on_clock(server, clock).rerank(QUERY, DOCUMENTS)
    assert clock.slept == [7, 2]


def test_retry_after_beyond_the_deadline_fails_at_once(server):
    clock = Clock()
    server.fail(refusal(429, "slow down", retry_after=300))
    with pytest.raises(Busy, match="slow down") as caught:
        on_clock(server, clock).rerank(QUERY, DOCUMENTS)
    assert caught.value.status == 429
    assert clock.slept == []


def test_one_deadline_holds_for_all_batches(server):
    clock = Clock()
    server.fail(*[refusal(503)] * 50)
    client = on_clock(server, clock, limits=Limits(documents=1), concurrency=1)
    with pytest.raises(Busy):
        client.rerank(QUERY, DOCUMENTS)
    assert sum(clock.slept) < 20


def test_a_silent_server_is_unreachable_and_the_text_says_for_how_long(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match=rf"POST {url}/rerank: no answer within 0\.2 s"):
            Reranker.from_url(url, KEY, patience=Patience(timeout_s=0.2, deadline_s=0.3)).rerank("q", ["d"])


def test_a_server_that_answers_drop_by_drop_is_cut_off_at_the_timeout():
    enough = threading.Event()

    def drip(listener):
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not enough.wait(0.02):
            try:
                connection.sendall(b" ")
            except OSError:
                break
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        patience = Patience(timeout_s=0.3, deadline_s=0.4)
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"no answer within 0\.3 s"):
            Reranker.from_url(url, KEY, patience=patience).models()
        assert time.monotonic() - started < 10
        enough.set()
        thread.join(5)


def test_a_server_that_comes_back_is_found(tmp_path):
    with guarded_server(tmp_path, tls=False) as server:
        port = int(server.url.rpartition(":")[2])
    clock = Clock()

    def sleep(seconds):
        clock.sleep(seconds)
        if len(clock.slept) == 3:
            revive()

    stopped = []

    def revive():
        listener = socket.create_server(("127.0.0.1", port))
        thread = threading.Thread(target=answer_once, args=(listener,), daemon=True)
        thread.start()
        stopped.append((listener, thread))

    def answer_once(listener):
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        body = json.dumps({"model": MODEL, "results": [{"index": 0, "relevance_score": 0.5}]}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        connection.close()

    client = Reranker.from_url(f"http://127.0.0.1:{port}", KEY, clock=clock, sleep=sleep, chance=lambda: 0.0)
    assert client.rerank("q", ["d"])[0].score == 0.5
    assert len(clock.slept) == 3
    for listener, thread in stopped:
        thread.join(5)
        listener.close()


def test_a_closed_port_is_unreachable_and_says_refused():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    patience = Patience(deadline_s=0.2, first_wait_s=0.05)
    with pytest.raises(Unreachable, match=rf"GET https://127.0.0.1:{port}/v1/models: .*refused \(asked \d+ times\)"):
        Reranker.from_url(f"https://127.0.0.1:{port}", KEY, patience=patience).models()


def test_an_address_that_is_none_after_all_is_not_asked_again():
    clock = Clock()
    client = Reranker.from_url("https://.", KEY, clock=clock, sleep=clock.sleep)
    with pytest.raises(Unreachable, match=r"GET https://\./v1/models: "):
        client.models()
    assert clock.slept == []


# ---- trust and keys --------------------------------------------------------------------------------------------------


def test_the_ca_is_given_as_text_or_as_a_path(server):
    for ca in (server.ca, server.ca_file, str(server.ca_file)):
        with Reranker.from_url(server.url, KEY, ca) as client:
            assert client.models()


@pytest.mark.parametrize("ca", ["", certificates("127.0.0.1")[0]], ids=["public CAs", "another CA"])
def test_a_server_of_another_ca_is_not_trusted_and_is_sent_nothing(server, ca):
    with Reranker.from_url(server.url, KEY, ca) as client, pytest.raises(Untrusted, match="certificate is not trusted"):
        client.rerank("q", ["d"])
    assert server.asked() == []


def test_no_public_ca_is_trusted_beside_the_stacks_own(reranker):
    reranker.models()
    context = tls_context(reranker.endpoint.ca_certificate)
    assert [dict(*one["subject"])["commonName"] for one in context.get_ca_certs()] == ["test"]


def test_a_certificate_of_another_address_is_not_trusted(tmp_path):
    with guarded_server(tmp_path, named="127.0.0.2") as server:
        with pytest.raises(Untrusted, match=r"certificate is not trusted \(.*IP address mismatch"):
            Reranker.from_url(server.url, KEY, server.ca).models()
        assert server.asked() == []


def test_a_wrong_key_is_refused_and_not_repeated(server):
    client = Reranker.from_url(server.url, "wrong-key", server.ca)
    with pytest.raises(KeyRefused, match=r"HTTP 401: .*the API key is missing or not this server's") as caught:
        client.rerank("q", ["d"])
    assert caught.value.status == 401
    assert len(server.asked()) == 1


def test_the_key_is_in_no_repr_and_in_no_error_even_where_the_server_echoes_it(server, reranker):
    assert KEY not in repr(reranker) + repr(reranker.endpoint) + str(reranker.__dict__)
    server.fail(refusal(400, f"you sent Bearer {KEY} and \x1b[31m"))
    with pytest.raises(ServerError) as caught:
        reranker.rerank("q", ["d"])
    assert "you sent Bearer [key]" in str(caught.value)
    assert KEY not in str(caught.value) + repr(caught.value) + caught.value.message
    assert "\x1b" not in str(caught.value)


def test_a_redirect_is_not_followed_so_the_key_stays_here(server, reranker):
    server.fail((307, [(b"location", b"https://127.0.0.9:1/rerank")], b""))
    with pytest.raises(ServerError, match="HTTP 307"):
        reranker.rerank("q", ["d"])


def test_proxies_and_netrc_of_the_environment_are_left_alone(server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert Reranker.from_url(server.url, KEY, server.ca).models()


# ---- what is refused before it is sent, and what is no answer --------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "documents", "options", "words"),
    [
        ("q", "one string", {}, "documents is one string"),
        ("q", 7, {}, "documents is int, not a list"),
        ("q", ["d", None], {}, r"documents\[1\] is NoneType, not a string"),
        ("q", ["d", "\ud800"], {}, r"documents\[1\] has half of a surrogate pair"),
        (None, ["d"], {}, r"query\[0\] is NoneType"),
        ("q", ["d"], {"top_n": 0}, "top_n is a whole number from 1"),
        ("q", ["d"], {"top_n": True}, "top_n is a whole number from 1"),
    ],
)
def test_input_that_cannot_be_sent_is_named(server, query, documents, options, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Reranker.from_url(server.url, KEY, server.ca).rerank(query, documents, **options)
    assert isinstance(caught.value, ValueError)
    assert server.asked() == []


def test_lists_of_two_lengths_cannot_be_pairs(reranker):
    with pytest.raises(InvalidInput, match="text_1 has 2 texts and text_2 has 3"):
        reranker.score(["a", "b"], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("url", "key", "ca", "words"),
    [
        ("nonsense", KEY, "", "is not the address of a server"),
        ("ftp://x", KEY, "", "is not the address of a server"),
        ("https://x:port", KEY, "", "not a URL"),
        ("https://user:pass@x", KEY, "", "holds a user or password"),
        ("https://x", "", "", "API key is empty"),
        ("https://x", KEY + "\nX: y", "", "no header can carry"),
        ("https://x", KEY + " " + KEY, "", "no header can carry"),
        ("https://x", KEY, "/nowhere/ca.pem", "cannot read the CA certificate '/nowhere/ca.pem': No such file"),
        ("https://x", KEY, json.__file__, "holds no certificate in PEM"),
        (
            "https://x",
            KEY,
            "\u0151 -----BEGIN CERTIFICATE-----\nnope\n-----END CERTIFICATE-----\n",
            "not PEM that can be read",
        ),
    ],
)
def test_an_endpoint_that_can_be_none_is_named_without_its_secrets(url, key, ca, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Reranker.from_url(url, key, ca)
    assert KEY not in str(caught.value)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"results": null}',
        b'{"results": []}',
        b'{"results": [{"index": 1, "relevance_score": 0.5}]}',
        b'{"results": [{"index": -1, "relevance_score": 0.5}]}',
        b'{"results": [{"index": true, "relevance_score": 0.5}]}',
        b'{"results": [{"index": 0, "relevance_score": "0.5"}]}',
        b'{"results": [{"index": 0, "relevance_score": NaN}]}',
        b'{"results": [{"index": 0, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.5}]}',
    ],
)
def test_a_body_that_is_no_rerankers_is_an_error_that_says_so(server, reranker, body):
    server.fail((200, [], body))
    with pytest.raises(MalformedAnswer, match=r"is this address"):
        reranker.rerank("q", ["d"])


@pytest.mark.parametrize(
    "body", [b'{"data": []}', b'{"data": [{"index": 1, "score": 1}]}', b'{"data": [{"index": 0}]}']
)
def test_scores_that_are_not_those_asked_for_are_an_error(server, reranker, body):
    server.fail((200, [], body))
    with pytest.raises(MalformedAnswer):
        reranker.score("q", "d")


def test_errors_cross_processes(server, reranker):
    server.fail(refusal(400, "no"))
    with pytest.raises(ServerError) as caught:
        reranker.rerank("q", ["d"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status, again.message) == (str(caught.value), 400, "no")


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n"])
def test_a_key_from_a_file_is_used_without_the_blanks_around_it(around):
    assert Endpoint.of("https://x", around.format(KEY)).api_key == KEY
