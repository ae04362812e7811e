"""The validation of a server: golden pairs, limits, closed routes, TLS; with a report of what it saw.

Run by the RerankValidation resource after each deploy, and by hand. What is asked is here, what is a good answer is in
`score_checks`. A check that fails names itself, what it saw and what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from components.errors import ServerError, ServerUnreachable, ValidationFailed
from components.vllm.catalog import GoldenCase, Model
from components.vllm.client import RerankClient
from components.vllm.encryption import check_encryption
from components.vllm.route_audit import (
    MAIN_ROUTES,
    AuditedRoute,
    audit_routes,
    routes_of,
    routes_to_audit,
    unauthorized_callers,
)
from components.vllm.score_checks import (
    Check,
    judge_agreement,
    judge_alive,
    judge_closed,
    judge_latency,
    judge_listed,
    judge_order,
    judge_overlong,
    judge_rerank_form,
    judge_score_form,
    judge_served,
    judge_truncated,
    judge_wrong_model,
)
from reranker.answers import ServedModel

# Goes up when checks are added or get stricter: a running stack is then validated again.
CHECKS_VERSION = 5
NO_SUCH_MODEL = "no-such-model"

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """All checks of one run. `weights` is where the server says its weights came from (root in /v1/models).

    `audited`: what every route said to unauthorized callers; empty where that was not tried.
    """

    model: str
    weights: str
    checks: tuple[Check, ...]
    audited: tuple[AuditedRoute, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def count(self) -> int:
        return sum(check.passed and not check.skipped for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def raise_if_failed(self) -> None:
        if self.failed:
            count = f"{len(self.failed)} of {len(self.checks)} checks failed for {self.model}"
            raise ValidationFailed("\n  ".join([count, *(check.line() for check in self.failed)]))


def run_checks(
    client: RerankClient,
    model: Model,
    *,
    golden: Sequence[GoldenCase] | None = None,
    routes_closed: bool = False,
    manager: RerankClient | None = None,
    thorough: bool = True,
    ca: str = "",
    server_name: str = "",
    max_latency_ms: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Run every check and return the report; a server that answers wrongly makes a failed check, not an error.

    `golden` replaces the model's own cases. Empty: the model has no meaning to check (random weights), so the order is
    not judged, and the report says so. `routes_closed`: no route may answer without the key, of those that
    the server lists to `manager`, who asks with its own key. `ca` (PEM): the server shows a certificate of this CA, for
    `server_name` too, and answers nobody without TLS. `thorough` False leaves out what is alike for all servers of one
    image and command: one of them is checked thoroughly.
    `max_latency_ms`: the median of the golden requests may take no longer, as measured here; 0 for no bound.
    Raises ServerUnreachable when a plain request finds no answer.
    """
    run = _Run(client, model, clock)
    served, latency_ms = run.ask(client.models)
    checks = [replace(judge_served(served, model.name), latency_ms=latency_ms)]
    cases = model.golden if golden is None else golden
    for case in cases or model.golden[:1]:
        checks += run.golden_case(case, judge_meaning=bool(cases))
    if max_latency_ms:
        checks.append(judge_latency(max_latency_ms, [check.latency_ms for check in checks if " form, " in check.name]))
    listed = () if isinstance(served, ServerError) else served
    checks += run.overlong(_context(listed, model))
    if thorough:
        checks.append(run.wrong_model())
    audited: list[AuditedRoute] = []
    if routes_closed:
        route_checks, audited = run.audited(manager or client, every=thorough)
        checks += route_checks
    if ca:
        checks += check_encryption(client.url, ca, server_name, thorough=thorough)
    weights = next((one.root for one in listed if one.id == model.name), "unknown")
    return Report(model.name, weights, tuple(checks), tuple(audited))


@dataclass(frozen=True)
class _Run:
    """One run against one server."""

    client: RerankClient
    model: Model
    clock: Callable[[], float]

    def ask(self, question: Callable[[], T]) -> tuple[T | ServerError, float]:
        """Return the answer, or the error that the server answered with, and how long that took in ms."""
        start = self.clock()
        answer: T | ServerError
        try:
            answer = question()
        except ServerError as error:
            answer = error
        return answer, (self.clock() - start) * 1000

    def golden_case(self, case: GoldenCase, *, judge_meaning: bool) -> list[Check]:
        """Score a case on both routes, the irrelevant texts first: an unsorted answer is then visibly unsorted."""
        name = self.model.name
        documents = [*case.irrelevant, *case.relevant]
        limits = self.model.score_limits
        ranked, rerank_ms = self.ask(lambda: self.client.rerank(case.query, documents, name))
        scores, score_ms = self.ask(lambda: self.client.score(case.query, documents, name))
        rerank_form = judge_rerank_form(f"/rerank form, {case.query!r}", documents, ranked, limits)
        score_form = judge_score_form(f"/score form, {case.query!r}", len(documents), scores, limits)
        checks = [replace(rerank_form, latency_ms=rerank_ms), replace(score_form, latency_ms=score_ms)]
        rerank_order, score_order = f"/rerank order, {case.query!r}", f"/score order, {case.query!r}"
        by_index: list[float] | None = None
        if rerank_form.passed and not isinstance(ranked, ServerError):
            by_index = [one.score for one in sorted(ranked.results, key=lambda one: one.index)]
        in_order = None if isinstance(scores, ServerError) or not score_form.passed else scores
        if judge_meaning:
            checks += [judge_order(rerank_order, case, by_index), judge_order(score_order, case, in_order)]
        else:
            unjudged = "not judged: these weights are not expected to rank"
            checks += [Check(each, True, unjudged, skipped=True) for each in (rerank_order, score_order)]
        return [*checks, judge_agreement(f"/rerank and /score agree, {case.query!r}", by_index, in_order)]

    def overlong(self, context: int) -> list[Check]:
        """Send a document of twice the context, as it is and cut on request; the server must be alive afterwards."""
        name, document = self.model.name, "word " * (2 * context)
        checks: list[Check] = []
        try:
            plain, plain_ms = self.ask(lambda: self.client.rerank("q", [document], name))
            checks.append(replace(judge_overlong(context, plain), latency_ms=plain_ms))
            cut, cut_ms = self.ask(lambda: self.client.rerank("q", [document], name, truncate_prompt_tokens=-1))
            checks.append(replace(judge_truncated(cut, self.model.kind), latency_ms=cut_ms))
            after, after_ms = self.ask(lambda: self.client.rerank("alive?", ["yes"], name))
            checks.append(replace(judge_alive(after), latency_ms=after_ms))
        except ServerUnreachable as error:
            checks.append(judge_alive(error))
        return checks

    def audited(self, manager: RerankClient, *, every: bool) -> tuple[list[Check], list[AuditedRoute]]:
        """Try routes as each kind of unauthorized caller: each must say 401 or 404. Return checks and routes."""
        start, callers = self.clock(), unauthorized_callers(self.client.key)
        try:
            routes = routes_of(manager) if every else ()
            audited = audit_routes(self.client, routes_to_audit(routes) if every else MAIN_ROUTES, callers)
        except ServerUnreachable as error:
            return [judge_closed(who, error) for who in callers], []
        took_ms = (self.clock() - start) * 1000 / len(callers)
        checks = [judge_closed(who, {route.path: route.statuses[who] for route in audited}) for who in callers]
        timed = [replace(check, latency_ms=took_ms) for check in checks]
        return ([judge_listed([path for path, _ in routes]), *timed], audited) if every else (timed, [])

    def wrong_model(self) -> Check:
        try:
            answer, latency_ms = self.ask(lambda: self.client.rerank("q", ["d"], NO_SUCH_MODEL))
        except ServerUnreachable as error:
            return judge_wrong_model(error)
        return replace(judge_wrong_model(answer), latency_ms=latency_ms)


def _context(served: Sequence[ServedModel], model: Model) -> int:
    """Return the context in tokens: as the server says, else as the catalog says."""
    lengths = [one.max_model_len for one in served if one.id == model.name and one.max_model_len]
    return lengths[0] if lengths else model.max_model_len
