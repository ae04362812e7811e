"""The checks: a good server passes, and each way to be wrong fails the check that is named for it."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from components.errors import ServerError, ServerUnreachable, ValidationFailed
from components.vllm.catalog import GoldenCase, load_catalog
from components.vllm.checks import Report, run_checks
from components.vllm.client import RerankAnswer, RerankClient, ScoredText
from components.vllm.score_checks import (
    AGREEMENT,
    Check,
    judge_agreement,
    judge_order,
    judge_overlong,
    judge_rerank_form,
    judge_score_form,
    judge_served,
    judge_truncated,
    judge_wrong_model,
)
from reranker.answers import ServedModel
from reranker.http import Unanswered
from tests.unit.fake_vllm import KEY, URL, Answer, FakeVllm

MODEL = load_catalog().model("BAAI/bge-reranker-base")
CASE = GoldenCase("deep learning", ("deep learning is machine learning",), ("pizza", "rain"))
MODEL = replace(MODEL, golden=(CASE,))
SIGMOID = (0.0, 1.0)
TEXTS = ["a", "b", "c"]


def run(fake: FakeVllm, **options: Any) -> Report:
    return run_checks(RerankClient(URL, KEY, transport=fake), MODEL, **options)


def failed(report: Report) -> list[str]:
    return [check.name.split(",")[0] for check in report.failed]


def results(*scored: tuple[int, float]) -> RerankAnswer:
    return RerankAnswer("m", tuple(ScoredText(index, score, TEXTS[index]) for index, score in scored))


# ---- a whole run -------------------------------------------------------------------------------------------------


def test_good_server_passes_every_check_and_the_report_names_the_weights() -> None:
    report = run(FakeVllm())
    assert not report.failed
    assert report.failed == ()
    assert report.weights == "/weights/it"
    assert [check.name.split(",")[0] for check in report.checks] == [
        "served model",
        "/rerank form",
        "/score form",
        "/rerank order",
        "/score order",
        "/rerank and /score agree",
        "over-long document",
        "over-long document",
        "alive after the over-long document",
        "wrong model name",
    ]
    report.raise_if_failed()


def test_checks_have_latencies_from_the_clock() -> None:
    ticks = iter(range(1000))
    report = run(FakeVllm(), clock=lambda: next(ticks) / 1000)
    assert report.passed
    assert round(report.checks[0].latency_ms, 1) == 1.0


def test_every_golden_case_is_scored_with_the_irrelevant_texts_first() -> None:
    fake = FakeVllm()
    other = GoldenCase("machine", ("machine",), ("rain",))
    assert run(fake, golden=[CASE, other]).passed
    sent = [body["documents"] for _m, path, body, _h in fake.requests if path == "/rerank"]
    assert sent[:2] == [["pizza", "rain", "deep learning is machine learning"], ["rain", "machine"]]


def test_empty_golden_judges_the_form_but_reports_the_order_as_skipped() -> None:
    fake = FakeVllm()
    swapped = {"relevance_score": 0.5, "score": 0.5}
    fake.fault = lambda _path, _body, answer: rescored(answer, swapped)
    assert failed(run(fake)) == ["/rerank order", "/score order"]
    report = run(fake, golden=())
    assert report.passed
    skipped = [check for check in report.checks if check.skipped]
    assert [check.name.split(",")[0] for check in skipped] == ["/rerank order", "/score order"]
    assert skipped[0].line().startswith("skipped /rerank order")
    assert "not expected to rank" in skipped[0].line()


def test_failed_validation_names_each_check_what_it_saw_and_what_to_do() -> None:
    fake = FakeVllm()
    fake.fault = lambda _path, _body, answer: rescored(answer, {"relevance_score": 0.5})
    with pytest.raises(ValidationFailed) as caught:
        run(fake).raise_if_failed()
    text = str(caught.value)
    assert text.startswith("2 of 10 checks failed for BAAI/bge-reranker-base")
    assert "/rerank order, 'deep learning': 'deep learning': relevant from 0.5000, irrelevant up to 0.5000" in text
    assert "chat template" in text


def test_server_that_fails_every_question_is_a_report_not_an_error() -> None:
    fake = FakeVllm()
    fake.fault = lambda _path, _body, _answer: (500, {"error": {"message": "EngineCore died"}})
    report = run(fake)
    assert len(report.failed) == len(report.checks)
    assert report.weights == "unknown"
    assert "EngineCore died" in report.checks[0].saw
    assert "container's log" in report.checks[0].advice


def test_wrong_key_is_a_failed_check_that_says_so() -> None:
    report = run(FakeVllm(key="another key"))
    assert "HTTP 401" in report.checks[0].saw
    assert "not the one that the server was started with" in report.checks[0].advice


def test_nothing_there_is_raised_at_once() -> None:
    fake = FakeVllm()
    fake.fault = refuse
    with pytest.raises(ServerUnreachable):
        run(fake)
    assert len(fake.requests) == 1


def test_server_that_dies_of_the_long_document_fails_that_check_and_the_rest_is_still_reported() -> None:
    fake = FakeVllm()
    dead: list[bool] = []

    def dies(path: str, body: dict[str, Any], answer: Answer) -> Answer:
        if dead or len(str(body.get("documents"))) > 300:
            dead.append(True)
            return refuse(path, body, answer)
        return answer

    fake.fault = dies
    report = run(fake)
    assert failed(report) == ["alive after the over-long document", "wrong model name"]
    assert "one long document stops this server" in report.failed[0].advice


def test_over_long_document_is_twice_the_context_that_the_server_has() -> None:
    fake = FakeVllm(context=100)
    run(fake)
    longest = max(len(body["documents"][0].split()) for _m, path, body, _h in fake.requests if path == "/rerank")
    assert longest == 200


def test_server_that_cuts_long_documents_by_itself_passes() -> None:
    fake = FakeVllm()
    cut = {"model": "m", "results": [{"index": 0, "relevance_score": 0.25}]}
    fake.fault = lambda _path, body, answer: (200, cut) if answer[0] == 400 else answer
    report = run(fake)
    assert report.passed
    assert "truncates long documents" in str(report.checks)


@pytest.mark.parametrize(
    ("path", "field", "value", "names"),
    [
        ("/rerank", "relevance_score", math.nan, ["/rerank form", "/rerank order", "/rerank and /score agree"]),
        ("/rerank", "relevance_score", 7.5, ["/rerank form", "/rerank order", "/rerank and /score agree"]),
        ("/rerank", "index", 0, ["/rerank form", "/rerank order", "/rerank and /score agree"]),
        ("/score", "score", math.inf, ["/score form", "/score order", "/rerank and /score agree"]),
    ],
)
def test_malformed_scores_fail_the_check_of_their_form_and_all_that_builds_on_it(
    path: str, field: str, value: float, names: list[str]
) -> None:
    fake = FakeVllm()
    fake.fault = lambda asked, body, answer: (
        rescored(answer, {field: value}) if asked == path and len(body.get("documents", "xx")) > 1 else answer
    )
    assert failed(run(fake)) == names


def test_routes_that_pair_texts_differently_fail_the_agreement() -> None:
    fake = FakeVllm()

    def shifted(path: str, _body: dict[str, Any], answer: Answer) -> Answer:
        if path == "/score":
            for one in answer[1]["data"]:
                one["score"] = max(0.0, one["score"] - 0.1) + 0.001
        return answer

    fake.fault = shifted
    assert failed(run(fake)) == ["/rerank and /score agree"]


def test_server_that_accepts_any_model_name_fails() -> None:
    fake = FakeVllm()
    fake.fault = lambda path, body, answer: (200, {"model": "m", "results": []}) if answer[0] == 404 else answer
    report = run(fake)
    assert failed(report) == ["wrong model name"]
    assert "answered as 'm'" in report.failed[0].saw


def test_server_with_another_model_fails_and_says_which_it_runs() -> None:
    report = run(FakeVllm("other/model"))
    assert report.failed[0].name == "served model"
    assert "other/model from /weights/it" in report.failed[0].saw
    assert "should serve BAAI/bge-reranker-base" in report.failed[0].advice


# ---- judges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (results((0, 0.9), (1, 0.5)), r"indexes \[0, 1\] are not those of 3 documents"),
        (results((0, 0.9), (1, 0.5), (1, 0.1)), r"indexes \[0, 1, 1\]"),
        (results((0, 0.5), (1, 0.9), (2, 0.1)), "not sorted"),
        (results((0, 0.9), (1, math.nan), (2, 0.1)), "1 of 3 scores are not finite"),
        (results((0, 1.2), (1, 0.5), (2, 0.1)), "score 1.2 is outside 0..1"),
        (results((0, 0.9), (1, 0.5), (2, -0.1)), "score -0.1 is outside 0..1"),
        (RerankAnswer("m", ()), "no scores"),
        (
            RerankAnswer("m", (ScoredText(0, 0.9, "b"), ScoredText(1, 0.5, "a"), ScoredText(2, 0.1, "c"))),
            "text at index 0 is not",
        ),
    ],
)
def test_rerank_form_names_what_is_wrong(answer: RerankAnswer, words: str) -> None:
    check = judge_rerank_form("form", TEXTS, answer, SIGMOID)
    assert not check.passed
    assert check.advice
    assert re.search(words, check.saw), check.saw


def test_rerank_form_accepts_equal_scores_and_answers_without_texts() -> None:
    answer = RerankAnswer("m", (ScoredText(2, 0.5, None), ScoredText(0, 0.5, None), ScoredText(1, 0.5, None)))
    assert judge_rerank_form("form", TEXTS, answer, SIGMOID).passed


def test_cosines_may_be_negative_and_a_hair_above_one() -> None:
    assert judge_score_form("form", 2, [-0.2, 1.0000002], (-1.0, 1.0)).passed
    assert not judge_score_form("form", 2, [-0.2, 0.9], SIGMOID).passed


def test_score_form_counts_pairs() -> None:
    assert "2 scores for 3 pairs" in judge_score_form("form", 3, [0.1, 0.2], SIGMOID).saw


def test_order_fails_when_one_relevant_text_is_below_one_irrelevant() -> None:
    case = GoldenCase("q", ("good", "better"), ("bad", "worse"))
    assert judge_order("order", case, [0.1, 0.2, 0.3, 0.9]).passed
    check = judge_order("order", case, [0.1, 0.4, 0.3, 0.9])
    assert not check.passed
    assert "'good' is not above 'worse'" in check.saw
    assert not judge_order("order", case, [0.1, 0.3, 0.3, 0.9]).passed


def test_agreement_allows_rounding_and_no_more() -> None:
    assert judge_agreement("agree", [0.5, 0.1], [0.5 + AGREEMENT * 0.99, 0.1]).passed
    assert not judge_agreement("agree", [0.5, 0.1], [0.5 + AGREEMENT * 1.01, 0.1]).passed
    assert not judge_agreement("agree", [0.5, 0.1], [0.1, 0.5]).passed
    assert not judge_agreement("agree", [0.5], [math.nan]).passed
    assert not judge_agreement("agree", None, [0.5]).passed


@pytest.mark.parametrize(
    ("error", "passed"),
    [
        (ServerError("", status=400, message="This model's maximum context length is 512 tokens."), True),
        (ServerError("", status=400, message="bad request"), False),
        (ServerError("", status=500, message="maximum context length"), False),
    ],
)
def test_over_long_document_must_be_refused_with_the_reason(error: ServerError, passed: bool) -> None:
    assert judge_overlong(512, error).passed is passed


def test_wrong_model_must_be_404() -> None:
    assert judge_wrong_model(ServerError("", status=404, message="no such")).passed
    assert not judge_wrong_model(ServerError("", status=400, message="no such")).passed
    assert not judge_wrong_model(ServerUnreachable("gone")).passed


def test_served_model_may_be_one_of_several() -> None:
    assert judge_served([ServedModel("a", "r", None), ServedModel("b", "r", 3)], "b").passed
    assert judge_served([], "b").saw == "no model"


def test_check_reads_as_a_line() -> None:
    assert Check("name", True, "seen").line() == "ok      name: seen"
    assert Check("name", False, "seen", "do this").line() == "FAILED  name: seen; do this"


# ---- faults ------------------------------------------------------------------------------------------------------


def rescored(answer: Answer, fields: dict[str, Any]) -> Answer:
    """Return an answer whose rows have other values."""
    status, body = answer
    rows = (body.get("results") or body.get("data") or []) if status == 200 else []
    for row in rows:
        row.update({key: value for key, value in fields.items() if key in row})
    return status, body


def refuse(_path: str, _body: dict[str, Any], _answer: Answer) -> Answer:
    raise Unanswered("the connection is refused", "refused", sent=False)


def test_of_a_decoder_a_clear_refusal_of_a_long_document_is_as_good_as_a_score() -> None:
    refused = ServerError("x", status=400, message="This model's maximum context length is 100 tokens.")
    assert judge_truncated(refused, "decoder-reranker").passed
    assert not judge_truncated(refused, "cross-encoder").passed
    assert not judge_truncated(ServerError("x", status=500, message="context length"), "decoder-reranker").passed
