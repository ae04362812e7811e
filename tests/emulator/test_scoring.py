"""The stub's answers have the shapes and errors of the real server."""

import json

import pytest

from emulator.scoring import IS_JSON, Served, detect_kind, overlap, respond

SERVED = Served(("BAAI/bge-reranker-base",))
QUERY = "What is deep learning?"
RELEVANT = "Deep learning is a subset of machine learning that uses neural networks with many layers."
PIZZA = "I like pizza"


def ask(path, method="POST", served=SERVED, **body):
    return respond(method, path, json.dumps(body).encode(), served)


def refusal(path="/rerank", **body):
    status, answer = ask(path, **body)
    return status, answer["error"]["type"], answer["error"]["param"], answer["error"]["message"]


def test_related_text_scores_well_above_unrelated_text():
    assert overlap(QUERY, RELEVANT) > 0.5
    assert 0 <= overlap(QUERY, PIZZA) < 0.1


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_answers_sorted_with_the_documents(path):
    status, answer = ask(path, model=SERVED.name, query=QUERY, documents=[PIZZA, RELEVANT, "x"])
    assert status == 200
    assert list(answer) == ["id", "model", "usage", "results"]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"]
    assert answer["results"][0] == {
        "index": 1,
        "document": {"text": RELEVANT, "multi_modal": None},
        "relevance_score": overlap(QUERY, RELEVANT),
    }


@pytest.mark.parametrize(("top_n", "count"), [(0, 3), (1, 1), (9, 3)])
def test_top_n_cuts_and_zero_is_all(top_n, count):
    assert len(ask("/rerank", query="q", documents=["a", "b", "c"], top_n=top_n)[1]["results"]) == count


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score_keeps_the_order(path):
    status, answer = ask(path, model=SERVED.name, text_1=QUERY, text_2=[PIZZA, RELEVANT])
    assert (status, answer["object"]) == (200, "list")
    assert answer["data"][1] == {"index": 1, "object": "score", "score": overlap(QUERY, RELEVANT)}
    assert answer["usage"]["prompt_tokens_details"] is None


def test_score_takes_pairs_and_refuses_unequal_lists():
    assert len(ask("/score", text_1=["a", "b"], text_2=["c", "d"])[1]["data"]) == 2
    said = refusal("/score", text_1=["a", "b"], text_2=["c", "d", "e"])
    assert said == (400, "BadRequestError", None, "Input lengths must be either 1:1, 1:N or N:N")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"query": "q", "documents": []},
            (400, "BadRequestError", None, "At least one text_pair element must be given"),
        ),
        (
            {"model": "nope", "query": "q", "documents": ["a"]},
            (404, "NotFoundError", None, "The model `nope` does not exist."),
        ),
        (
            {"query": "q", "documents": ["a"], "max_tokens_per_doc": None},
            (
                400,
                "Bad Request",
                "body.max_tokens_per_doc",
                "1 validation error:\n  {'type': 'int_type', 'loc': 'body.max_tokens_per_doc', "
                "'msg': 'Input should be a valid integer', 'input': 'None'}",
            ),
        ),
        (
            {"query": "q"},
            (
                400,
                "Bad Request",
                "body.documents",
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.documents', 'msg': 'Field required', "
                "'input': '<dict of 1 items>'}",
            ),
        ),
        (
            {"query": "q", "documents": ["a"], "top_n": -1},
            (
                400,
                "Bad Request",
                "body.top_n",
                "1 validation error:\n  {'type': 'greater_than_equal', 'loc': 'body.top_n', 'msg': 'Input should be "
                "greater than or equal to 0', 'input': '-1', 'ctx': {'ge': 0}}",
            ),
        ),
    ],
)
def test_bad_requests_are_refused_in_vllms_words(body, said):
    assert refusal(**body) == said


def test_a_query_of_another_type_names_both_types_that_are_taken():
    _, kind, param, message = refusal(query=5, documents=["x"])
    assert (kind, param) == ("Bad Request", "body.query")
    assert message.startswith("2 validation errors:\n  {'type': 'string_type', 'loc': 'body.query'")
    assert "'type': 'dict_type', 'loc': 'body.query.ScoreMultiModalParam'" in message


def test_broken_json_is_refused_with_its_position():
    status, answer = respond("POST", "/rerank", b'{"model":', SERVED)
    assert (status, answer["error"]["param"]) == (400, "body.9")
    assert "'ctx': {'error': 'Expecting value'}" in answer["error"]["message"]


def test_a_document_over_the_limit_is_refused_unless_it_may_be_truncated():
    long = {"query": "q", "documents": ["word " * 2000]}
    _, _, param, message = refusal(**long)
    assert param == "input_tokens"
    assert message == (
        "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
        "(parameter=input_tokens, value=513)"
    )
    assert ask("/rerank", **long, truncate_prompt_tokens=-1)[1]["usage"]["prompt_tokens"] == 512
    assert ask("/rerank", **long, truncate_prompt_tokens=100)[1]["usage"]["prompt_tokens"] == 100


def test_the_model_list_tells_name_root_and_limit():
    _, answer = ask("/v1/models", method="GET", served=Served(("a", "b"), "/weights", 1024))
    card = answer["data"][0]
    assert [one["id"] for one in answer["data"]] == ["a", "b"]
    assert (card["root"], card["max_model_len"], card["owned_by"]) == ("/weights", 1024, "vllm")
    assert card["permission"][0]["object"] == "model_permission"


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/health", 200, ""),
        ("GET", "/ping", 200, ""),
        ("GET", "/load", 200, {"server_load": 0}),
        ("GET", "/rerank", 405, {"detail": "Method Not Allowed"}),
        ("POST", "/v1/models", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/nope", 404, {"detail": "Not Found"}),
        ("POST", "/v1/chat/completions", 404, {"detail": "Not Found"}),
    ],
)
def test_other_paths_answer_as_vllm_does(method, path, status, answer):
    assert ask(path, method=method) == (status, answer)


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/rerank", "", 200),
        ("/score", "", 400),
        ("/v1/rerank", "", 401),
        ("/v2/rerank", "Bearer wrong", 401),
        ("/v1/rerank", "Bearer sesame", 200),
        ("/v2/rerank", "Bearer second", 200),
    ],
)
def test_vllms_own_key_covers_v1_and_v2_only(path, authorization, status):
    served = Served(("m",), keys=("sesame", "second"))
    body = json.dumps({"query": "q", "documents": ["a"]}).encode()
    assert respond("POST", path, body, served, IS_JSON | {"authorization": authorization})[0] == status


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"documents": [{"text": "a"}]}, 400),
        ({"documents": {"content": [{"type": "text", "text": "a"}]}}, 400),
        ({"documents": "a"}, 200),
        ({"max_tokens_per_doc": 511}, 200),
        ({"max_tokens_per_doc": 512}, 400),
        ({"max_tokens_per_query": -1}, 400),
        ({"top_n": "1"}, 200),
        ({"top_n": 1.5}, 400),
        ({"padding": "max_length"}, 200),
        ({"padding": "longest"}, 400),
        ({"truncate_prompt_tokens": 0}, 400),
        ({"truncate_prompt_tokens": 513}, 400),
        ({"instruction": "be kind"}, 200),
        ({"instruction": 5}, 400),
        ({"cache_salt": "a/b"}, 400),
        ({"mm_processor_kwargs": {"a": 1}}, 400),
        ({"return_documents": False}, 200),
        ({"not_there": 1}, 200),
    ],
)
def test_a_property_is_taken_or_refused_as_vllm_does(more, status):
    found, answer = ask("/rerank", **{"query": "q", "documents": ["a", "b"]} | more)
    assert found == status, answer
    if status == 200:
        assert all(one["document"]["text"] in ("a", "b") for one in answer["results"])


def test_an_answer_has_all_documents_whatever_is_asked_so_that_traffic_goes_both_ways():
    """docs/cost.md: 50 documents of 1 kB come back in 55 kB; fewer of them with top_n, none by /score."""
    sent = {"query": "q", "documents": [f"{n:04d}" * 250 for n in range(50)], "return_documents": False}
    size = len(json.dumps(ask("/rerank", **sent)[1], separators=(",", ":")))
    assert 54_000 < size < 56_000
    assert len(json.dumps(ask("/rerank", **sent, top_n=5)[1])) < size / 8
    assert len(json.dumps(ask("/score", queries="q", documents=sent["documents"])[1])) < size / 8


@pytest.mark.parametrize("names", [("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_score_takes_its_inputs_by_every_name(names):
    assert len(ask("/score", **dict(zip(names, ("a", ["b", "c"]), strict=True)))[1]["data"]) == 2


@pytest.mark.parametrize(
    ("kind", "more", "tokens"),
    [
        ("cross-encoder", {}, 2 * (2 + 2 + 4)),
        ("cross-encoder", {"truncate_prompt_tokens": 3}, 2 * 3),
        ("cross-encoder", {"padding": "max_length"}, 2 * 512),
        ("bi-encoder", {}, (2 + 2) + 2 * (2 + 2) + 2),
        ("bi-encoder", {"truncate_prompt_tokens": 3}, 3 * 3 + 2),
        ("decoder", {}, 2 * (2 + 2 + 100)),
    ],
)
def test_a_kind_of_model_counts_tokens_in_its_own_way(kind, more, tokens):
    served = Served(("m",), kind=kind)
    assert ask("/rerank", served=served, query="q", documents=["a", "b"], **more)[1]["usage"]["total_tokens"] == tokens


def test_a_bi_encoders_limit_is_of_each_text_and_a_cross_encoders_of_the_pair():
    half = "word " * 250
    statuses = [
        ask("/rerank", served=Served(("m",), kind=kind), query=half, documents=[half])[0]
        for kind in ("bi-encoder", "cross-encoder")
    ]
    assert statuses == [200, 400]


@pytest.mark.parametrize(
    ("weights", "template", "kind"),
    [
        ("XLMRobertaForSequenceClassification", None, "cross-encoder"),
        ("BertModel", None, "bi-encoder"),
        ("Qwen3ForCausalLM", "{{ x }}", "decoder"),
    ],
)
def test_a_models_kind_is_what_its_weights_say(tmp_path, weights, template, kind):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [weights]}))
    assert detect_kind("a/model", str(tmp_path), template) == kind


@pytest.mark.parametrize(("sent", "status"), [("application/json; charset=utf-8", 200), ("text/plain", 400), ("", 400)])
def test_a_body_that_is_not_called_json_is_refused(sent, status):
    body = json.dumps({"query": "q", "documents": ["a"]}).encode()
    assert respond("POST", "/rerank", body, SERVED, {"content-type": sent})[0] == status


def test_an_answer_has_the_id_that_the_request_has():
    body = json.dumps({"query": "q", "documents": ["a"]}).encode()
    assert respond("POST", "/rerank", body, SERVED, IS_JSON | {"x-request-id": "mine"})[1]["id"] == "score-mine"
