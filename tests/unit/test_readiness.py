"""What a readiness probe and a gateway's check make of an answer to a pair: one of them reads it, the other matches."""

import json
import re

import pytest

from components.readiness import Readiness
from components.vllm.catalog import load_catalog

SIGMOID = Readiness("m", "q", "I like pizza", "deep learning", (0.0, 1.0))
COSINE = Readiness("m", "q", "I like pizza", "deep learning", (-1.0, 1.0))


def answer(relevant, irrelevant, order=(1, 0)):
    """An answer as vLLM writes one, sorted or not."""
    scores = {0: irrelevant, 1: relevant}
    texts = {0: "I like pizza", 1: "deep learning"}
    results = [
        {"index": n, "document": {"text": texts[n], "multi_modal": None}, "relevance_score": scores[n]} for n in order
    ]
    return json.dumps({"id": "score-1", "model": "m", "results": results})


GOOD = [(0.9995, 0.00004), (1.0, 0.0), (1, 0), (0.5, 0.4999), (9.8e-05, 3e-12), (1.0004, 0.2)]
BAD = {
    "null": answer(None, 0.1),
    "both null": answer(None, None),
    "NaN": answer(float("nan"), 0.1),
    "the other NaN": answer(0.9, float("nan")),
    "infinite": answer(float("inf"), 0.1),
    "over the range": answer(7.5, 0.1),
    "under the range": answer(0.9, -0.2),
    "a percentage": answer(99.0, 1.0),
    "text": answer("0.9", "0.1"),
    "true": answer(True, False),
    "the irrelevant one first": answer(0.1, 0.9, order=(0, 1)),
    "all the same": answer(0.5, 0.5, order=(0, 1)),
    "one result": answer(0.9, 0.1, order=(1,)),
    "no results": json.dumps({"results": []}),
    "a name alone": '{"relevance_score": null}',
    "no object": "[1]",
    "no JSON": "relevance_score",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("scores", GOOD)
@pytest.mark.parametrize("readiness", [SIGMOID, COSINE])
def test_a_relevant_text_that_scores_above_an_irrelevant_one_is_good_to_both(readiness, scores):
    assert readiness.problem(answer(*scores)) == ""
    assert re.search(readiness.pattern(), answer(*scores))


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_scores_that_are_none_or_out_of_range_or_do_not_rank_are_good_to_neither(text):
    assert SIGMOID.problem(text)
    assert not re.search(SIGMOID.pattern(), text)


def test_a_cosine_may_be_negative_and_no_less_than_minus_one():
    assert COSINE.problem(answer(0.3, -0.2)) == ""
    assert re.search(COSINE.pattern(), answer(0.3, -0.2))
    assert "-1.5 is outside -1..1" in COSINE.problem(answer(0.3, -1.5))


def test_scores_that_are_sorted_by_name_and_not_by_value_are_seen_by_the_reader():
    assert "does not rank" in SIGMOID.problem(answer(0.2, 0.8))


@pytest.mark.parametrize("model", load_catalog().models.values(), ids=lambda model: model.name)
def test_every_model_is_probed_with_texts_of_its_own_golden_pairs(model):
    asked = model.readiness.request()
    assert asked["model"] == model.name
    assert asked["documents"] == [model.golden[0].irrelevant[0], model.golden[0].relevant[0]]
    assert model.readiness.limits[1] == 1
