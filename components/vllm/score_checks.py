"""Checks of a server's answers. Each function takes an answer and returns a Check. Pure; called by `checks`.

Forms and error texts are those of vLLM 0.19.1 and 0.32.0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

from components.errors import ServerError, ServingError
from components.readiness import RANGE_SLACK, ScoreLimits
from components.vllm.catalog import GoldenCase, Kind
from components.vllm.client import RerankAnswer
from reranker.answers import ServedModel

# /rerank and /score batch differently, and half precision rounds. Wrong pairs differ by far more.
AGREEMENT = 0.02
CLOSED = frozenset({401, 404})
ADVICE = {
    401: "the key in the stack's outputs is not the one that the server was started with",
    403: "a proxy or a firewall in front of the server refuses this",
    404: "check that this is the reranker's address, and the served model (/v1/models)",
}


@dataclass(frozen=True)
class Check:
    """The result of one check. `saw`: the observation. `advice`: the next step after a failure, empty if it passed."""

    name: str
    passed: bool
    saw: str
    advice: str = ""
    latency_ms: float = 0.0
    skipped: bool = False

    def line(self) -> str:
        state = "skipped" if self.skipped else "ok" if self.passed else "FAILED"
        return f"{state:7} {self.name}: {self.saw}" + (f"; {self.advice}" if self.advice else "")


def judge_served(served: Sequence[ServedModel] | ServerError, name: str) -> Check:
    """Judge /v1/models: the server must serve the model under its own name."""
    if isinstance(served, ServerError):
        return Check("served model", False, str(served), _advice_on(served))
    saw = "; ".join(f"{model.id} from {model.root}, {model.max_model_len} tokens" for model in served) or "no model"
    passed = any(model.id == name for model in served)
    advice = "" if passed else f"the server runs something else; it should serve {name}: check the instance's command"
    return Check("served model", passed, saw, advice)


def judge_latency(limit_ms: float, latencies_ms: Sequence[float]) -> Check:
    """Judge the median latency of golden requests, including network and TLS."""
    median_ms = statistics.median(latencies_ms)
    passed = median_ms <= limit_ms
    advice = "" if passed else "use a nearer or faster machine (countries, gpu_names, prefer), or raise max_latency_ms"
    return Check("latency", passed, f"median {median_ms:.0f} ms of {len(latencies_ms)}, limit {limit_ms:g}", advice)


def judge_rerank_form(
    name: str, documents: Sequence[str], answer: RerankAnswer | ServerError, limits: ScoreLimits
) -> Check:
    """Judge the form of a /rerank answer: finite scores in range, best first, each index once with its text."""
    if isinstance(answer, ServerError):
        return Check(name, False, str(answer), _advice_on(answer))
    results = answer.results
    scores = [result.score for result in results]
    indexes = [result.index for result in results]
    problems = _score_problems(scores, limits)
    if sorted(indexes) != list(range(len(documents))):
        problems.append(f"indexes {indexes} are not those of {len(documents)} documents")
    else:
        wrong = [result.index for result in results if result.text not in (None, documents[result.index])]
        if wrong:
            problems.append(f"the text at index {wrong[0]} is not the document with this index in the request")
    if not problems and any(later > earlier for earlier, later in pairwise(scores)):
        problems.append("scores are not sorted, best first")
    return _form_check(name, problems, f"{len(results)} results, {_span(scores)}")


def judge_score_form(name: str, count: int, scores: Sequence[float] | ServerError, limits: ScoreLimits) -> Check:
    """Judge the form of a /score answer: one finite score in range for each pair."""
    if isinstance(scores, ServerError):
        return Check(name, False, str(scores), _advice_on(scores))
    problems = _score_problems(scores, limits)
    if len(scores) != count:
        problems.append(f"{len(scores)} scores for {count} pairs")
    return _form_check(name, problems, f"{len(scores)} scores, {_span(scores)}")


def judge_order(name: str, case: GoldenCase, scores: Sequence[float] | None) -> Check:
    """Judge the order. `scores`: of the irrelevant, then the relevant texts; every relevant one must be higher."""
    split = len(case.irrelevant)
    if scores is None or len(scores) != split + len(case.relevant):
        return Check(name, False, "not every text has a usable score", "see the check of the answer's form")
    highest = max(zip(scores[:split], case.irrelevant, strict=True), key=itemgetter(0))
    lowest = min(zip(scores[split:], case.relevant, strict=True), key=itemgetter(0))
    saw = f"{case.query!r}: relevant from {lowest[0]:.4f}, irrelevant up to {highest[0]:.4f}"
    if lowest[0] > highest[0]:
        return Check(name, True, saw)
    advice = "the model does not rank: wrong weights, or missing flags or chat template (see components/catalog)"
    return Check(name, False, f"{saw} ({lowest[1]!r} is not above {highest[1]!r})", advice)


def judge_agreement(name: str, rerank_by_index: Sequence[float] | None, scores: Sequence[float] | None) -> Check:
    """Judge that /rerank and /score return the same scores for the same pairs, within AGREEMENT."""
    if not rerank_by_index or not scores or len(rerank_by_index) != len(scores):
        return Check(name, False, "not every text has a usable score on both", "see the checks of the answers' form")
    gap = max(abs(rerank - score) for rerank, score in zip(rerank_by_index, scores, strict=True))
    passed = gap <= AGREEMENT  # False for NaN
    advice = "" if passed else "one of the routes pairs or cuts texts differently; try another vLLM version"
    return Check(name, passed, f"largest difference {gap:.5f}, allowed {AGREEMENT}", advice)


def judge_overlong(context: int, outcome: RerankAnswer | ServerError) -> Check:
    """Judge a document longer than the context: status 400 that states the length, or one finite score."""
    name = "over-long document"
    if isinstance(outcome, ServerError):
        passed = outcome.status == 400 and "context length" in outcome.message
        advice = "" if passed else f"expected 400 with the maximum context length, {context} tokens"
        return Check(name, passed, f"HTTP {outcome.status}: {outcome.message}", advice)
    if len(outcome.results) == 1 and math.isfinite(outcome.results[0].score):
        return Check(name, True, f"answered with {outcome.results[0].score:.4f}: the server truncates long documents")
    return Check(name, False, f"answered with {outcome.results}", "expected a refusal or one finite score")


def judge_truncated(outcome: RerankAnswer | ServerError, kind: Kind) -> Check:
    """Judge the same document with truncate_prompt_tokens -1: one finite score. A decoder may refuse it if its vLLM
    cannot truncate the document without the prompt."""
    name = "over-long document, cut on request"
    advice = "clients cannot send long documents: check the server's version (truncate_prompt_tokens)"
    if isinstance(outcome, ServerError):
        passed = kind == "decoder-reranker" and outcome.status == 400 and "context length" in outcome.message
        return Check(name, passed, f"HTTP {outcome.status}: {outcome.message}", "" if passed else advice)
    if len(outcome.results) == 1 and math.isfinite(outcome.results[0].score):
        return Check(name, True, f"one score, {outcome.results[0].score:.4f}")
    return Check(name, False, f"results {outcome.results}", advice)


def judge_alive(outcome: RerankAnswer | ServingError) -> Check:
    """Judge a normal request after the over-long ones: the engine must still answer."""
    name = "alive after the over-long document"
    if isinstance(outcome, ServingError):
        advice = "one long document stops this server: truncate documents, or change the image"
        return Check(name, False, str(outcome), advice)
    return Check(name, len(outcome.results) == 1, f"{len(outcome.results)} result")


def judge_wrong_model(outcome: RerankAnswer | ServingError) -> Check:
    """Judge a request for a model that is not served: 404."""
    name = "wrong model name"
    advice = "this address may be a proxy or another server: it does not check the model of a request"
    if isinstance(outcome, ServerError):
        passed = outcome.status == 404
        return Check(name, passed, f"HTTP {outcome.status}: {outcome.message}", "" if passed else advice)
    if isinstance(outcome, ServingError):
        return Check(name, False, str(outcome), "the server stopped answering: see the container's log")
    return Check(name, False, f"answered as {outcome.model!r}", advice)


def judge_closed(caller: str, outcome: Mapping[str, Sequence[int]] | ServingError) -> Check:
    """Judge the statuses of every route for an unauthorized caller: only 401 and 404 are correct."""
    name = f"closed routes, with {caller}"
    if isinstance(outcome, ServingError):
        return Check(name, False, str(outcome), "the server stopped answering: see the container's log")
    open_routes = [f"{path} {max(statuses)}" for path, statuses in outcome.items() if not set(statuses) <= CLOSED]
    if open_routes:
        saw = f"{len(open_routes)} of {len(outcome)} routes answer: {', '.join(open_routes)}"
        return Check(name, False, saw, "the guard is not in front of this server: destroy it and deploy again")
    return Check(name, True, f"all {len(outcome)} routes answer 401 or 404")


def judge_listed(routes: Sequence[str]) -> Check:
    """Judge the server's own list of routes. A server without a list passes."""
    name = "routes by the server's own list"
    if not routes:
        return Check(name, True, "the server has no list: the routes of vLLM 0.32 were requested", skipped=True)
    missing = [path for path in ("/rerank", "/score") if path not in routes]
    if missing:
        return Check(name, False, f"{', '.join(missing)} not among {len(routes)}", "this server is not a reranker")
    return Check(name, True, f"{len(routes)} routes")


def _advice_on(error: ServerError) -> str:
    return ADVICE.get(error.status, "the engine cannot answer: see the container's log (vastai logs ID)")


def _score_problems(scores: Sequence[float], limits: ScoreLimits) -> list[str]:
    if not scores:
        return ["no scores"]
    not_finite = [score for score in scores if not math.isfinite(score)]
    if not_finite:
        return [f"{len(not_finite)} of {len(scores)} scores are not finite"]
    low, high = limits
    outside = [score for score in scores if not low - RANGE_SLACK <= score <= high + RANGE_SLACK]
    return [f"score {outside[0]} is outside {low:g}..{high:g}"] if outside else []


def _form_check(name: str, problems: list[str], saw: str) -> Check:
    if not problems:
        return Check(name, True, saw)
    advice = "the engine answers, but not in vLLM's form: try another image or dtype"
    return Check(name, False, "; ".join(problems), advice)


def _span(scores: Sequence[float]) -> str:
    return f"{min(scores):.4f} to {max(scores):.4f}" if scores else "none"
