"""Checks of a server's answers. Each function takes what a server sent and returns a Check: passed, saw, advice.

Functions of data, called by `checks`. Forms and error texts: vLLM 0.19.1 and 0.32.0.
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

# /rerank and /score batch differently, and half precision rounds; a wrong pairing differs by far more.
AGREEMENT = 0.02
CLOSED = frozenset({401, 404})


@dataclass(frozen=True)
class Check:
    """One thing that was checked. `advice` is what to do about a failure, and empty where it passed."""

    name: str
    passed: bool
    saw: str
    advice: str = ""
    latency_ms: float = 0.0
    skipped: bool = False

    def line(self) -> str:
        state = "skipped" if self.skipped else "ok" if self.passed else "FAILED"
        return f"{state:7} {self.name}: {self.saw}" + (f"; {self.advice}" if self.advice else "")


def judge_served(served: Sequence[ServedModel] | ServerError, wanted: str) -> Check:
    """Judge /v1/models: the model must be served under its own name."""
    if isinstance(served, ServerError):
        return Check("served model", False, str(served), _advice_on(served))
    saw = "; ".join(f"{one.id} from {one.root}, {one.max_model_len} tokens" for one in served) or "no model"
    passed = any(one.id == wanted for one in served)
    advice = "" if passed else f"the server runs something else; it should serve {wanted}: check the instance's command"
    return Check("served model", passed, saw, advice)


def judge_latency(limit_ms: float, latencies_ms: Sequence[float]) -> Check:
    """Judge the median of what golden requests took, network and TLS included."""
    median_ms = statistics.median(latencies_ms)
    passed = median_ms <= limit_ms
    advice = "" if passed else "a nearer or faster machine (countries, gpu_names, prefer), or raise max_latency_ms"
    return Check("latency", passed, f"median {median_ms:.0f} ms of {len(latencies_ms)}, limit {limit_ms:g}", advice)


def judge_rerank_form(
    name: str, documents: Sequence[str], answer: RerankAnswer | ServerError, limits: ScoreLimits
) -> Check:
    """Judge an answer of /rerank by form: finite scores in range, best first, each index once and with its text."""
    if isinstance(answer, ServerError):
        return Check(name, False, str(answer), _advice_on(answer))
    results = answer.results
    scores = [one.score for one in results]
    indexes = [one.index for one in results]
    problems = _score_problems(scores, limits)
    if sorted(indexes) != list(range(len(documents))):
        problems.append(f"indexes {indexes} are not those of {len(documents)} documents")
    else:
        moved = [one.index for one in results if one.text is not None and one.text != documents[one.index]]
        if moved:
            problems.append(f"the text at index {moved[0]} is not the document that was sent there")
    if not problems and any(later > earlier for earlier, later in pairwise(scores)):
        problems.append("scores are not sorted, best first")
    return _formed(name, problems, f"{len(results)} results, {_span(scores)}")


def judge_score_form(name: str, count: int, scores: Sequence[float] | ServerError, limits: ScoreLimits) -> Check:
    """Judge an answer of /score by form: one finite score in range for each pair."""
    if isinstance(scores, ServerError):
        return Check(name, False, str(scores), _advice_on(scores))
    problems = _score_problems(scores, limits)
    if len(scores) != count:
        problems.append(f"{len(scores)} scores for {count} pairs")
    return _formed(name, problems, f"{len(scores)} scores, {_span(scores)}")


def judge_order(name: str, case: GoldenCase, scores: Sequence[float] | None) -> Check:
    """Judge meaning: `scores` are of irrelevant, then relevant texts; each relevant one must be above all others."""
    split = len(case.irrelevant)
    if scores is None or len(scores) != split + len(case.relevant):
        return Check(name, False, "not every text has a usable score", "see the check of the answer's form")
    highest = max(zip(scores[:split], case.irrelevant, strict=True), key=itemgetter(0))
    lowest = min(zip(scores[split:], case.relevant, strict=True), key=itemgetter(0))
    saw = f"{case.query!r}: relevant from {lowest[0]:.4f}, irrelevant up to {highest[0]:.4f}"
    if lowest[0] > highest[0]:
        return Check(name, True, saw)
    return Check(
        name,
        False,
        f"{saw} ({lowest[1]!r} is not above {highest[1]!r})",
        "the model does not rank: wrong weights, or flags or chat template are missing (see components/catalog)",
    )


def judge_agreement(name: str, rerank_by_index: Sequence[float] | None, scores: Sequence[float] | None) -> Check:
    """Judge that /rerank and /score say the same of the same pairs, within AGREEMENT."""
    if not rerank_by_index or not scores or len(rerank_by_index) != len(scores):
        return Check(name, False, "not every text has a usable score on both", "see the checks of the answers' form")
    gap = max(abs(one - other) for one, other in zip(rerank_by_index, scores, strict=True))
    passed = gap <= AGREEMENT  # False for NaN
    advice = "" if passed else "one of the routes pairs or cuts texts differently; try another vLLM version"
    return Check(name, passed, f"largest difference {gap:.5f}, allowed {AGREEMENT}", advice)


def judge_overlong(context: int, outcome: RerankAnswer | ServerError) -> Check:
    """Judge a document longer than the context: a clear refusal (400 that names the length), or one finite score."""
    name = "over-long document"
    if isinstance(outcome, ServerError):
        named = outcome.status == 400 and "context length" in outcome.message
        saw = f"HTTP {outcome.status}: {outcome.message}"
        if named:
            return Check(name, True, saw)
        return Check(name, False, saw, f"expected 400 naming the maximum context length, {context} tokens")
    if len(outcome.results) == 1 and math.isfinite(outcome.results[0].score):
        return Check(name, True, f"answered with {outcome.results[0].score:.4f}: the server cuts long documents")
    return Check(name, False, f"answered with {outcome.results}", "expected a refusal or one finite score")


def judge_truncated(outcome: RerankAnswer | ServerError, kind: Kind) -> Check:
    """Judge the same document with truncate_prompt_tokens -1: one finite score, or of a decoder a clear refusal, where
    its vLLM cannot cut documents without their prompt."""
    name = "over-long document, cut on request"
    advice = "clients cannot send long documents: check the server's version (truncate_prompt_tokens)"
    if isinstance(outcome, ServerError):
        refused = kind == "decoder-reranker" and outcome.status == 400 and "context length" in outcome.message
        return Check(name, refused, f"HTTP {outcome.status}: {outcome.message}", "" if refused else advice)
    if len(outcome.results) == 1 and math.isfinite(outcome.results[0].score):
        return Check(name, True, f"one score, {outcome.results[0].score:.4f}")
    return Check(name, False, f"results {outcome.results}", advice)


def judge_alive(outcome: RerankAnswer | ServingError) -> Check:
    """Judge a plain request after the over-long ones: the engine must still answer."""
    name = "alive after the over-long document"
    if isinstance(outcome, ServingError):
        return Check(
            name, False, str(outcome), "one long document stops this server: cut documents, or change the image"
        )
    return Check(name, len(outcome.results) == 1, f"{len(outcome.results)} result")


def judge_wrong_model(outcome: RerankAnswer | ServingError) -> Check:
    """Judge a request for a model that is not served: 404."""
    name = "wrong model name"
    advice = "this address may be a proxy or another server: the model in a request should be checked"
    if isinstance(outcome, ServerError):
        passed = outcome.status == 404
        return Check(name, passed, f"HTTP {outcome.status}: {outcome.message}", "" if passed else advice)
    if isinstance(outcome, ServingError):
        return Check(name, False, str(outcome), "the server stopped answering: see the container's log")
    return Check(name, False, f"answered as {outcome.model!r}", advice)


def judge_closed(who: str, outcome: Mapping[str, Sequence[int]] | ServingError) -> Check:
    """Judge what every route says to an unauthorized caller, by each method: 401 or 404 and nothing else."""
    name = f"closed routes, with {who}"
    if isinstance(outcome, ServingError):
        return Check(name, False, str(outcome), "the server stopped answering: see the container's log")
    open_routes = [f"{path} {max(each)}" for path, each in outcome.items() if not set(each) <= CLOSED]
    if open_routes:
        saw = f"{len(open_routes)} of {len(outcome)} routes answer: {', '.join(open_routes)}"
        return Check(name, False, saw, "the guard is not in front of this server: destroy it and deploy again")
    return Check(name, True, f"all of {len(outcome)} routes say 401 or 404")


def judge_listed(routes: Sequence[str]) -> Check:
    """Judge whether the routes that were tried are the server's own; a server that lists none is no failure."""
    name = "routes by the server's own list"
    if not routes:
        return Check(name, True, "it lists none: those of vLLM 0.32 were tried", skipped=True)
    missing = [path for path in ("/rerank", "/score") if path not in routes]
    if missing:
        return Check(name, False, f"{', '.join(missing)} not among {len(routes)}", "this server is no reranker")
    return Check(name, True, f"{len(routes)} routes")


def _advice_on(error: ServerError) -> str:
    if error.status == 401:
        return "the key in the stack's outputs is not the one that the server was started with"
    if error.status == 403:
        return "something in front of the server refuses this: a proxy or a firewall, not the reranker"
    if error.status == 404:
        return "check that this address is the reranker's, and which model it serves (/v1/models)"
    return "the engine cannot answer: see the container's log (vastai logs ID)"


def _score_problems(scores: Sequence[float], limits: ScoreLimits) -> list[str]:
    if not scores:
        return ["no scores"]
    wild = [score for score in scores if not math.isfinite(score)]
    if wild:
        return [f"{len(wild)} of {len(scores)} scores are not finite"]
    low, high = limits
    outside = [score for score in scores if not low - RANGE_SLACK <= score <= high + RANGE_SLACK]
    return [f"score {outside[0]} is outside {low:g}..{high:g}"] if outside else []


def _formed(name: str, problems: list[str], seen: str) -> Check:
    if not problems:
        return Check(name, True, seen)
    return Check(
        name, False, "; ".join(problems), "the engine answers, but not as vLLM does: try another image or dtype"
    )


def _span(scores: Sequence[float]) -> str:
    return f"{min(scores):.4f} to {max(scores):.4f}" if scores else "none"
