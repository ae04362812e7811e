"""Requests as clients of other rerankers sent them to a recorder, and the answers that those clients read."""

import pytest

from reranker.dialects import RerankRequest, RerankResult, Route, error_body, format_answer, parse_request, parse_route
from reranker.errors import InvalidInput

D = ["a", "b"]
CUT = {"truncate_prompt_tokens": -1}


def asked(dialect, documents=("a", "b"), given=None, **changes):
    originals = tuple(documents if given is None else given)
    fields = {"originals": originals, "extra": CUT, "return_documents": False} | changes
    return RerankRequest(dialect, "q", tuple(documents), **fields)


# client and version -> path, body as it was sent, what is read from it
RECORDED = {
    "cohere 7.3.1, V2": (
        "/v2/rerank",
        {"model": "m", "query": "q", "documents": D},
        asked("cohere-v2", model="m"),
    ),
    "cohere 7.3.1, V1 with objects": (
        "/v1/rerank",
        {"model": "m", "query": "q", "documents": [{"text": "a", "t": "x"}, "b"], "rank_fields": ["t"],
         "return_documents": True},
        asked("jina", ["t: x", "b"], [{"text": "a", "t": "x"}, "b"], model="m", return_documents=True),
    ),
    "cohere 5.21.1 (LangChain), nulls": (
        "/v2/rerank",
        {"model": "m", "query": "q", "documents": D, "top_n": None, "max_tokens_per_doc": None},
        asked("cohere-v2", model="m"),
    ),
    "cohere-ai 8.1.0 (npm), V1": (
        "/v1/rerank",
        {"model": "m", "query": "q", "documents": [{"text": "a"}], "top_n": 1, "return_documents": True},
        asked("jina", ["a"], [{"text": "a"}], model="m", top_n=1, return_documents=True),
    ),
    "cohere-haystack 11.0.0": (
        "/v2/rerank",
        {"model": "m", "query": "q", "documents": D, "top_n": 10, "max_tokens_per_doc": 4096},
        asked("cohere-v2", model="m", top_n=10, max_tokens_per_doc=4096),
    ),
    "jina-haystack 2.0.1": (
        "/v1/rerank",
        {"query": "q", "documents": D, "model": "m", "top_n": None},
        asked("jina", model="m", return_documents=True),
    ),
    "litellm 1.110.2, cohere": (
        "/v2/rerank",
        {"model": "m", "query": "q", "documents": D, "return_documents": True},
        asked("cohere-v2", model="m", return_documents=True),
    ),
    "litellm 1.110.2, huggingface": (
        "/rerank",
        {"raw_scores": False, "truncation_direction": "Right", "query": "q", "texts": D, "return_text": True},
        asked("tei", return_documents=True),
    ),
    "litellm 1.110.2, infinity": (
        "/infinity/rerank",
        {"model": "m", "query": "q", "documents": D, "return_documents": True},
        asked("infinity", model="m", return_documents=True),
    ),
    "litellm 1.110.2, voyage": (
        "/voyage/v1/rerank",
        {"model": "m", "query": "q", "documents": D, "return_documents": True},
        asked("voyage", model="m", return_documents=True),
    ),
    "llama-index-postprocessor-tei-rerank 0.6.0": ("/rerank", {"query": "q", "texts": D}, asked("tei")),
    "voyageai 0.5.0": (
        "/v1/rerank",
        {"query": "q", "documents": D, "model": "m", "top_k": None, "truncation": True},
        asked("voyage", model="m"),
    ),
    "voyageai 0.4.0 (npm)": (
        "/rerank",
        {"model": "m", "query": "q", "documents": D, "top_k": 1},
        asked("voyage", model="m", top_n=1),
    ),
    "@ai-sdk/voyage 1.0.14 without topN": (
        "/voyage/v1/rerank",
        {"model": "m", "query": "q", "documents": D},
        asked("voyage", model="m"),
    ),
    "LibreChat": (
        "/v1/rerank",
        {"model": "jina-reranker-v2-base-multilingual", "query": "q", "documents": D, "top_n": 5,
         "return_documents": True},
        asked("jina", model="jina-reranker-v2-base-multilingual", top_n=5, return_documents=True),
    ),
    "Xinference's clients: text for everything": (
        "/v1/rerank",
        {"model": "m", "query": "q", "documents": D, "top_n": "2", "return_documents": "false", "return_len": "true"},
        asked("jina", model="m", top_n=2),
    ),
    "Milvus: no model": ("/rerank", {"query": "q", "documents": D}, asked("jina", return_documents=True)),
}  # fmt: skip


@pytest.mark.parametrize("client", RECORDED)
def test_a_recorded_request_is_understood(client):
    path, body, wanted = RECORDED[client]
    assert parse_request(parse_route(path), body) == wanted


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/rerank", Route("rerank")),
        ("//v1/rerank/", Route("rerank", "v1")),
        ("/cohere/v2/rerank", Route("rerank", "v2", "cohere")),
        ("/tei/info", Route("info", "", "tei")),
        ("/v1/models", Route("models", "v1")),
        ("/", None),
        ("/v3/rerank", None),
        ("/guard/keys", None),
        ("/rerank/rerank", None),
    ],
)
def test_a_path_names_operation_version_and_dialect(path, found):
    assert parse_route(path) == found


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "not a JSON object"),
        ({"query": "q"}, "documents is not a list"),
        ({"query": "q", "texts": "a"}, "texts is not a list"),
        ({"documents": D}, "query is NoneType, not a string"),
        ({"query": "q", "documents": ["a", 7]}, r"documents\[1\] is int, not a string"),
        ({"query": "q", "documents": [{"image": "data:"}]}, r"documents\[0\] has no text; images are not supported"),
        ({"query": "q", "documents": D, "top_n": -1}, "top_n must be a whole number from 1"),
        ({"query": "q", "documents": D, "top_k": True}, "top_k must be a whole number from 1"),
        ({"query": "q", "documents": D, "top_n": "many"}, "top_n must be a whole number from 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(body, words):
    with pytest.raises(InvalidInput, match=words):
        parse_request(Route("rerank"), body)


def test_an_object_without_text_is_scored_as_json_and_comes_back_as_it_was():
    given = {"title": "é"}
    one = parse_request(Route("rerank"), {"query": {"text": "q"}, "documents": [given]})
    assert (one.query, one.documents) == ("q", ('{"title": "é"}',))
    assert format_answer(one, SCORED_ONE)["results"][0]["document"] == given


SCORED = RerankResult([(1, 0.9), (0, 0.1)], "served", "rerank-1", 7)
SCORED_ONE = RerankResult([(0, 0.1)], "served", "rerank-1", 7)
ROWS = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]


def meta(version):
    tokens = {"input_tokens": 7, "output_tokens": 0}
    return {"api_version": {"version": version}, "billed_units": {"search_units": 1}, "tokens": tokens}


def with_document(text_of, name="document"):
    return [row | {name: text_of(D[row["index"]])} for row in ROWS]


ANSWERS = {
    "cohere": {"id": "rerank-1", "results": ROWS, "meta": meta("1")},
    "cohere-v2": {"id": "rerank-1", "results": ROWS, "meta": meta("2")},
    "jina": {
        "id": "rerank-1", "object": "list", "model": "served", "results": ROWS, "meta": meta("1"),
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    },
    "infinity": {
        "id": "rerank-1", "object": "rerank", "model": "served", "results": ROWS,
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    },
    "voyage": {"object": "list", "data": ROWS, "model": "served", "usage": {"total_tokens": 7}},
    "tei": [{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}],
}  # fmt: skip


@pytest.mark.parametrize("dialect", ANSWERS)
def test_an_answer_has_the_shape_that_the_dialects_clients_read(dialect):
    assert format_answer(asked(dialect), SCORED) == ANSWERS[dialect]


@pytest.mark.parametrize(
    ("dialect", "rows"),
    [
        ("cohere-v2", with_document(lambda text: {"text": text})),
        ("jina", with_document(lambda text: {"text": text})),
        ("infinity", with_document(str)),
        ("voyage", with_document(str)),
    ],
)
def test_documents_come_back_where_they_are_asked_for(dialect, rows):
    body = format_answer(asked(dialect, return_documents=True), SCORED)
    assert body.get("results", body.get("data")) == rows


def test_tei_calls_a_document_text():
    assert format_answer(asked("tei", return_documents=True), SCORED)[0] == {"index": 1, "score": 0.9, "text": "b"}


def test_an_error_has_its_text_where_each_client_looks():
    body = error_body("", 400, "no")
    assert (body["message"], body["detail"], body["error"]["message"]) == ("no", "no", "no")
    assert error_body("tei", 400, "no") == {"error": "no", "error_type": "Validation"}
