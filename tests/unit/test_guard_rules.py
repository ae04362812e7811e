"""What the guard makes of a scoring request's body: which fields, how many pairs, what is cut."""

import json

import pytest

from components.guard.rules import PAIR_TOKENS, RERANK_FIELDS, SCORE_FIELDS, Refusal, Rules, judge
from emulator.stub_requests import SCORES, RerankRequest

# of the requests of vLLM 0.32, as far as they matter
FIELDS_032 = frozenset({"query", "instruction", "chat_template_kwargs", "max_tokens_per_doc"})
DECODER = {"context": 200, "template": 50, "truncate": -1, "fields": FIELDS_032}


def judged(body, path="/rerank", **rules):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(path, body, Rules(**rules))


def sent(body, path="/rerank", **rules):
    return json.loads(judged(body, path, **rules).body)


def refused(body, path="/rerank", **rules):
    with pytest.raises(Refusal) as caught:
        judged(body, path, **rules)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\x00", b'{"query": "\\ud800"}', b"[" * 100_000, b"1" * 5000, b"NaN", b'{"top_n": 1e999}'],
)
def test_what_is_not_json_in_utf_8_is_refused_and_never_an_internal_error(body):
    assert refused(body)[0] == 400


@pytest.mark.parametrize("field", ["padding", "priority", "cache_salt", "request_id", "mm_processor_kwargs", "Query"])
@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank", "/v1/score"])
def test_a_field_that_is_on_no_list_is_refused_by_its_name(path, field):
    status, message = refused({"query": "q", "documents": ["d"], field: 1} if "rank" in path else {field: 1}, path)
    assert (status, message.startswith(f"{field}: is not a field of {path}")) == (400, True)


def test_a_list_of_fields_has_nothing_that_vllm_has_not_but_what_it_ignores():
    assert RERANK_FIELDS - set(RerankRequest.model_fields) == {"return_documents"}
    assert SCORE_FIELDS - {name for one in SCORES for name in one.model_fields} == {"return_documents"}


PAIRS = [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_pairs_are_counted_whatever_they_are_called_and_on_whichever_side(one, other):
    for body in ({one: "q", other: ["d"] * 11}, {one: ["q"] * 11, other: "d"}, {one: ["q"] * 11, other: ["d"] * 11}):
        assert refused(body, "/score", max_documents=10)[1].startswith("11 documents in one request; at most 10")
        assert judged(body, "/score", max_documents=11).pairs == 11
    assert judged({one: "q", other: "d"}, "/score").pairs == 1


@pytest.mark.parametrize(
    "documents", [{"content": ["d"] * 11}, [{"content": ["d"] * 6}, {"content": ["d"] * 5}], [["d"] * 11], [1] * 11]
)
def test_pairs_inside_of_objects_and_lists_are_counted_as_well(documents):
    assert refused({"query": "q", "documents": documents}, max_documents=10)[1].startswith("11 documents")


@pytest.mark.parametrize("names", [("documents", "items"), ("items", "data_2"), ("text_1", "queries")])
def test_two_names_for_one_side_are_refused(names):
    assert refused({name: ["d"] for name in names}, "/score")[1].startswith(" and ".join(names))


def test_tokens_are_at_most_the_bytes_of_a_pair_and_never_more_than_the_context():
    assert judged({"query": "abc", "documents": ["d", "ää"]}, context=100).tokens == 2 * 3 + 1 + 4 + 2 * PAIR_TOKENS
    assert judged({"query": "q", "documents": ["d" * 900] * 3}, context=100).tokens == 300
    assert judged({"text_1": ["q"] * 3, "text_2": "d" * 900}, "/score", context=100).tokens == 300


def test_a_default_for_truncation_is_put_in_and_never_overrides():
    assert sent({"query": "q"}, truncate=-1)["truncate_prompt_tokens"] == -1
    assert sent({"query": "q", "truncate_prompt_tokens": 7}, truncate=-1)["truncate_prompt_tokens"] == 7


def test_null_is_taken_out_as_not_given():
    assert sent({"query": "q", "documents": ["d"], "top_n": None}) == {"query": "q", "documents": ["d"]}


@pytest.mark.parametrize("asked", [{}, {"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 190}])
@pytest.mark.parametrize(("one", "other"), [("query", "documents"), *PAIRS])
def test_of_a_model_with_a_template_the_documents_are_cut_and_never_the_prompt(asked, one, other):
    body = {one: "q" * 20, other: ["short", "d" * 500], **asked}
    seen = sent(body, "/rerank" if one == "query" else "/score", **DECODER)
    assert "truncate_prompt_tokens" not in seen
    assert seen["max_tokens_per_doc"] == asked.get("truncate_prompt_tokens", 200) % 201 - 50 - 20
    assert seen[other] == body[other]


def test_a_template_and_a_query_count_as_bytes_and_a_limit_of_the_request_holds():
    body = {"query": "ä" * 10, "instruction": "i" * 5, "documents": ["d" * 500], "max_tokens_per_doc": 30}
    assert sent(body, **DECODER)["max_tokens_per_doc"] == 30
    body["max_tokens_per_doc"] = 0
    assert sent(body, **DECODER)["max_tokens_per_doc"] == 200 - 50 - 20 - 5


def test_what_fits_anyway_is_sent_as_it_is():
    assert sent({"query": "q", "documents": ["d"]}, **DECODER) == {"query": "q", "documents": ["d"]}


@pytest.mark.parametrize("limit", [0, -2, 201, "251", True, 1.5, [1]])
def test_a_limit_that_such_a_model_cannot_take_is_refused(limit):
    status, message = refused({"query": "q", "documents": ["d"], "truncate_prompt_tokens": limit}, **DECODER)
    assert (status, "1 to 200" in message) == (400, True)


def test_a_limit_that_leaves_no_room_for_a_document_is_refused_and_the_models_own_is_left_to_vllm():
    body = {"query": "q" * 300, "documents": ["d"], "truncate_prompt_tokens": 100}
    assert "would cut this model's prompt" in refused(body, **DECODER)[1]
    plain = {"query": "q" * 300, "documents": ["d"]}
    assert sent(body | {"truncate_prompt_tokens": -1}, **DECODER) == plain


def test_an_older_vllm_that_cannot_cut_documents_never_cuts_the_prompt():
    body, older = {"query": "q", "documents": ["d" * 500]}, DECODER | {"fields": frozenset()}
    assert sent(body, **older) == body
    assert refused(body | {"truncate_prompt_tokens": 150}, **older)[0] == 400


@pytest.mark.parametrize(
    "given", [{"instruction": "rank laws"}, {"chat_template_kwargs": {"instruction": "rank laws"}}]
)
def test_an_instruction_reaches_a_template_and_is_refused_where_it_would_be_ignored(given):
    body, name = {"query": "q", "documents": ["d"], **given}, next(iter(given))
    assert sent(body, **DECODER) == body
    assert refused(body, truncate=-1) == (400, f"{name}: this model has no prompt template that uses it")
    assert "this version of vLLM" in refused(body, **DECODER | {"fields": frozenset()})[1]


def test_a_model_that_is_not_served_is_404_and_says_what_is():
    served = {"models": ("BAAI/bge-reranker-base", "rerank-v3.5")}
    message = "The model `jina` does not exist; served: BAAI/bge-reranker-base, rerank-v3.5"
    assert refused({"model": "jina", "query": "q", "documents": ["d"]}, **served) == (404, message)
    for model in ("rerank-v3.5", "BAAI/bge-reranker-base", "", None):
        assert judged({"model": model, "query": "q", "documents": ["d"]}, **served)
