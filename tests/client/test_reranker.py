"""The client against the guarded TLS server: what it returns, what it splits."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from emulator.scoring import overlap
from reranker import InvalidInput, Limits, Ranked, Reranker, ServedModel, ServerError
from tests.client.asking import DOCUMENTS, QUERY, expected
from tests.client.guarded import KEY, MODEL, guarded_server, refusal

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
    bodies = [body for _, body in server.requests()]
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
    assert server.requests() == []


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
    assert sorted(len(body["documents"]) for _, body in server.requests()) == [500, 1000, 1000]
    assert [(one.score, -one.index) for one in ranking] == expected(documents)
    assert all(one.text == documents[one.index] for one in ranking)


def test_top_n_of_split_documents_is_the_best_of_all(server, reranker):
    documents = [f"pizza {n}" for n in range(1500)]
    documents[1203], documents[7] = "deep learning", "deep deep learning things"
    ranking = reranker.rerank(QUERY, documents, 2)
    assert [one.index for one in ranking] == [1203, 7]
    assert all(body["top_n"] == 2 for _, body in server.requests())


def test_documents_of_more_than_2_mib_are_split_by_bytes_and_none_is_refused(server, reranker):
    documents = [f"{n} " + "é" * (1 << 17) for n in range(20)]  # 256 KiB each in UTF-8
    ranking = reranker.rerank(QUERY, documents)
    assert sorted(one.index for one in ranking) == list(range(20))
    sizes = [len(body) for _, body in server.faulty.bodies]
    assert len(sizes) == 3
    assert max(sizes) <= 2 << 20
    assert max(sizes) > 7 << 18


def test_a_document_that_no_request_can_hold_is_named_before_anything_is_sent(server, reranker):
    with pytest.raises(InvalidInput, match=r"documents\[1\] is too large: \d+ bytes by itself, of 2097152 allowed"):
        reranker.rerank(QUERY, ["a", "b" * (9 << 20)])
    assert server.requests() == []


def test_pairs_are_split_and_keep_their_order(server):
    with Reranker.from_url(server.url, KEY, server.ca, limits=Limits(documents=7)) as client:
        firsts = [f"deep {n}" for n in range(20)]
        seconds = [f"deep {n % 4}" for n in range(20)]
        assert client.score(firsts, seconds) == tuple(map(overlap, firsts, seconds))
        assert client.score("deep 1", seconds) == tuple(overlap("deep 1", text) for text in seconds)
    assert len(server.requests()) == 6


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
