"""`rerank eval`: the metrics against published examples, the file's form, and a comparison of two servers."""

import json
import subprocess
import sys

import pytest

from reranker.errors import InvalidInput
from reranker.eval_command import Query, read_queries
from reranker.relevance import ndcg, recall, reciprocal_rank
from reranker.table import bars
from tests.client.guarded import KEY, MODEL, guarded_server
from tests.client.proxying import REPO, write_outputs

SAMPLE = REPO / "examples" / "queries.jsonl"


def test_ndcg_is_that_of_the_worked_example():
    """Wikipedia, "Discounted cumulative gain": grades 3 2 3 0 1 2, and 3 and 2 that were not found: 6.861 of 8.740."""
    grades = dict(enumerate([3, 2, 3, 0, 1, 2, 3, 2]))
    assert ndcg([0, 1, 2, 3, 4, 5], grades, 6) == pytest.approx(6.861 / 8.740, abs=1e-4)
    assert ndcg([6, 2, 0, 1, 5, 7, 4, 3], grades, 10) == 1.0
    assert ndcg([8, 9], grades, 10) == 0.0


def test_the_mean_reciprocal_rank_is_that_of_the_worked_example():
    """Wikipedia, "Mean reciprocal rank": the right plural comes third, second and first: 11/18."""
    ranked = [["catten", "cati", "cats"], ["torii", "tori", "toruses"], ["viruses", "virii", "viri"]]
    right = ["cats", "tori", "viruses"]
    ranks = [reciprocal_rank(one, {answer: 1}) for one, answer in zip(ranked, right, strict=True)]
    assert sum(ranks) / 3 == pytest.approx(11 / 18)
    assert reciprocal_rank(["a"], {"b": 1}) == 0.0


def test_recall_is_of_all_relevant_documents_also_those_that_were_not_given():
    """Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", 8.2: found relevant of all relevant."""
    assert recall(["a", "x", "b"], {"a": 2, "b": 1, "c": 1, "x": 0}, 2) == pytest.approx(1 / 3)
    assert recall(["a", "x", "b"], {"a": 2, "b": 1, "c": 1, "x": 0}, 3) == pytest.approx(2 / 3)


def test_relevant_documents_are_named_by_index_or_id_with_grades_or_without():
    lines = [
        {"query": "q", "documents": ["a", "b"], "relevant": [1]},
        {"query": "q", "documents": ["a", "b"], "relevant": {"1": 2}},
        {"query": "q", "documents": [{"id": 7, "text": "a"}], "relevant": {"7": 3, "8": 1}},
    ]
    assert read_queries([json.dumps(one).encode() for one in lines], "f") == [
        Query("q", {0: "a", 1: "b"}, {1: 1.0}),
        Query("q", {0: "a", 1: "b"}, {1: 2.0}),
        Query("q", {7: "a"}, {7: 3.0, "8": 1.0}),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x", "line 2 is not a query"),
        ('{"query": "q", "relevant": [0]}', "no 'documents'"),
        ('{"query": "q", "documents": ["a"], "relevant": []}', "no document is relevant"),
        ('{"query": "q", "documents": [7], "relevant": [0]}', "document 0 has no text"),
        (
            '{"query": "q", "documents": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "relevant": [1]}',
            "a duplicate id",
        ),
    ],
)
def test_a_line_that_is_no_query_is_named(line, words):
    with pytest.raises(InvalidInput, match=words):
        read_queries([b"", line.encode()], "queries.jsonl")


def test_a_bar_fills_the_line_at_its_full_value_or_at_the_largest_one():
    rows = [("good", 0.5), ("bad", 0.25)]
    assert [line.count("▇") for line in bars(rows, "{:.2f}", 40, 1.0)] == [14, 7]
    assert [line.count("▇") for line in bars(rows, "{:.2f}", 40)] == [28, 14]


def evaluate(*args, **env):
    command = [sys.executable, "-m", "reranker", "eval", *map(str, args)]
    env = {"PYTHONPATH": str(REPO)} | env
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_two_servers_are_compared_by_quality_speed_and_price(server, tmp_path):
    """The second answers with the scores turned round, and costs twice as much."""
    with guarded_server(tmp_path) as worse:
        stub = worse.faulty.app

        async def turned_round(scope, receive, send):
            async def turn(message):
                if message["type"] == "http.response.body":
                    body = json.loads(message["body"])
                    for one in body["results"]:
                        one["relevance_score"] = -one["relevance_score"]
                    message = {**message, "body": json.dumps(body).encode()}
                elif message["type"] == "http.response.start":
                    message = {**message, "headers": [(b"content-type", b"application/json")]}
                await send(message)

            await stub(scope, receive, turn)

        worse.faulty.app = turned_round
        places = [
            write_outputs(tmp_path / "good.json", server, hourly_cost_usd={"total": 0.36}),
            write_outputs(tmp_path / "bad.json", worse, hourly_cost_usd={"total": 0.72}),
        ]
        stacks = [word for place in places for word in ("--outputs", place)]
        done = evaluate("--queries", SAMPLE, "--json", "--k", "3", *stacks)
        assert done.returncode == 0, done.stderr
        good, bad = map(json.loads, done.stdout.splitlines())
        assert good["ndcg"] > 0.8
        assert bad["ndcg"] < 0.6
        assert good["mrr"] > bad["mrr"]
        assert good["recall"] > bad["recall"]
        for one, hourly in ((good, 0.36), (bad, 0.72)):
            assert one["model"] == MODEL
            assert 0 < one["p50_ms"] <= one["p95_ms"]
            pairs = 24 / 6 * 1000
            assert one["usd_per_1000_queries"] == pytest.approx(hourly / 3600 * pairs / one["pairs_per_s"])
        shown = evaluate("--queries", SAMPLE, *stacks)
    assert shown.stderr == "rerank: 6 queries, 24 pairs, 4 at once\n"
    lines = shown.stdout.splitlines()
    assert lines[0].split() == [
        "stack", "model", "nDCG@10", "MRR", "recall@10", "p50", "ms", "p95", "ms", "pairs/s", "$/1,000", "queries",
    ]  # fmt: skip
    assert len(lines) == 3 + 3 * 4
    assert lines[4] == "nDCG@10, 1 is best"
    assert lines[5].count("▇") > lines[6].count("▇") > 0


def test_without_a_price_there_are_no_dollars_and_no_bar_of_them(server):
    known = {"RERANKER_API_KEY": KEY, "RERANKER_CA": str(server.ca_file)}
    done = evaluate("--queries", SAMPLE, "--url", server.url, **known)
    assert done.returncode == 0, done.stderr
    assert "unknown" in done.stdout
    assert "$ per" not in done.stdout


def test_a_missing_file_is_2():
    done = evaluate("--queries", "/nowhere.jsonl", "--url", "https://127.0.0.1:1", RERANKER_API_KEY="k")
    assert (done.returncode, done.stderr) == (2, "rerank: cannot read /nowhere.jsonl: No such file or directory\n")
