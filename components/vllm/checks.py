"""Validates a server with requests: golden pairs, limits, closed routes, TLS. Returns a report.

Run by the RerankValidation resource after each deploy, and by hand. This module sends the requests; `score_checks`
judges the answers. A failed check reports its name, the observed result and the next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TypeVar

from components.errors import ServerError, ServerUnreachable, ValidationFailed
from components.vllm.catalog import GoldenCase, Model
from components.vllm.client import RerankClient
from components.vllm.encryption import check_encryption
from components.vllm.route_audit import (
    MAIN_ROUTES,
    AuditedRoute,
    audit_routes,
    list_routes,
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

# Increase it for new or stricter checks: running stacks are then validated again.
CHECKS_VERSION = 5
NO_SUCH_MODEL = "no-such-model"

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """All checks of one run. `weights`: the source of the weights (root in /v1/models). `audited`: the statuses of
    every route for unauthorized callers; empty without an audit.
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
    """Run every check and return the report. A wrong answer is a failed check, not an error.

    `golden` replaces the model's cases. Empty: the order is not checked (random weights), and the report says so.
    `routes_closed`: no route may answer without the key; `manager`, a client with the management key, lists the routes.
    `ca` (PEM): the server must have a certificate of this CA, also for `server_name`, and must not answer without TLS.
    `thorough` False omits the checks that have the same result on all servers of one image and command.
    `max_latency_ms`: the limit of the golden requests' median, measured here; 0 means no limit.
    Raises ServerUnreachable if a plain request gets no answer.
    """
    run = _Run(client, model, clock)
    served, latency_ms = run.measure(client.models)
    checks = [replace(judge_served(served, model.name), latency_ms=latency_ms)]
    cases = model.golden if golden is None else golden
    for case in cases or model.golden[:1]:
        checks += run.golden_case(case, judge_meaning=bool(cases))
    if max_latency_ms:
        checks.append(judge_latency(max_latency_ms, [check.latency_ms for check in checks if " form, " in check.name]))
    models = () if isinstance(served, ServerError) else served
    context_lens = [entry.max_model_len for entry in models if entry.id == model.name and entry.max_model_len]
    checks += run.overlong(context_lens[0] if context_lens else model.max_model_len)
    if thorough:
        checks.append(run.wrong_model())
    audited: list[AuditedRoute] = []
    if routes_closed:
        route_checks, audited = run.audit(manager or client, all_routes=thorough)
        checks += route_checks
    if ca:
        checks += check_encryption(client.url, ca, server_name, thorough=thorough)
    weights = next((entry.root for entry in models if entry.id == model.name), "unknown")
    return Report(model.name, weights, tuple(checks), tuple(audited))


@dataclass(frozen=True)
class _Run:
    """One run against one server."""

    client: RerankClient
    model: Model
    clock: Callable[[], float]

    def measure(self, request: Callable[[], T]) -> tuple[T | ServerError, float]:
        """Return the answer, or the server's error, and the latency in ms."""
        start = self.clock()
        answer: T | ServerError
        try:
            answer = request()
        except ServerError as error:
            answer = error
        return answer, (self.clock() - start) * 1000

    def golden_case(self, case: GoldenCase, *, judge_meaning: bool) -> list[Check]:
        """Score a case on both routes. The irrelevant texts come first, so that an unsorted answer is detected."""
        name = self.model.name
        documents = [*case.irrelevant, *case.relevant]
        limits = self.model.score_limits
        ranked, rerank_ms = self.measure(lambda: self.client.rerank(case.query, documents, name))
        scores, score_ms = self.measure(lambda: self.client.score(case.query, documents, name))
        rerank_form = judge_rerank_form(f"/rerank form, {case.query!r}", documents, ranked, limits)
        score_form = judge_score_form(f"/score form, {case.query!r}", len(documents), scores, limits)
        checks = [replace(rerank_form, latency_ms=rerank_ms), replace(score_form, latency_ms=score_ms)]
        rerank_order, score_order = f"/rerank order, {case.query!r}", f"/score order, {case.query!r}"
        by_index: list[float] | None = None
        if rerank_form.passed and not isinstance(ranked, ServerError):
            by_index = [result.score for result in sorted(ranked.results, key=attrgetter("index"))]
        in_order = None if isinstance(scores, ServerError) or not score_form.passed else scores
        if judge_meaning:
            checks += [judge_order(rerank_order, case, by_index), judge_order(score_order, case, in_order)]
        else:
            reason = "not judged: these weights are not expected to rank"
            checks += [Check(check_name, True, reason, skipped=True) for check_name in (rerank_order, score_order)]
        return [*checks, judge_agreement(f"/rerank and /score agree, {case.query!r}", by_index, in_order)]

    def overlong(self, context: int) -> list[Check]:
        """Send a document of twice the context, once as it is and once with truncation. The server must survive."""
        name, document = self.model.name, "word " * (2 * context)
        checks: list[Check] = []
        try:
            plain, plain_ms = self.measure(lambda: self.client.rerank("q", [document], name))
            checks.append(replace(judge_overlong(context, plain), latency_ms=plain_ms))
            cut, cut_ms = self.measure(lambda: self.client.rerank("q", [document], name, truncate_prompt_tokens=-1))
            checks.append(replace(judge_truncated(cut, self.model.kind), latency_ms=cut_ms))
            after, after_ms = self.measure(lambda: self.client.rerank("alive?", ["yes"], name))
            checks.append(replace(judge_alive(after), latency_ms=after_ms))
        except ServerUnreachable as error:
            checks.append(judge_alive(error))
        return checks

    def audit(self, manager: RerankClient, *, all_routes: bool) -> tuple[list[Check], list[AuditedRoute]]:
        """Request routes as each unauthorized caller: the status must be 401 or 404. Return checks and routes."""
        start, callers = self.clock(), unauthorized_callers(self.client.key)
        try:
            routes = list_routes(manager) if all_routes else ()
            audited = audit_routes(self.client, routes_to_audit(routes) if all_routes else MAIN_ROUTES, callers)
        except ServerUnreachable as error:
            return [judge_closed(caller, error) for caller in callers], []
        latency_ms = (self.clock() - start) * 1000 / len(callers)
        statuses = {caller: {route.path: route.statuses[caller] for route in audited} for caller in callers}
        checks = [replace(judge_closed(caller, statuses[caller]), latency_ms=latency_ms) for caller in callers]
        return ([judge_listed([path for path, _ in routes]), *checks], audited) if all_routes else (checks, [])

    def wrong_model(self) -> Check:
        try:
            answer, latency_ms = self.measure(lambda: self.client.rerank("q", ["d"], NO_SUCH_MODEL))
        except ServerUnreachable as error:
            return judge_wrong_model(error)
        return replace(judge_wrong_model(answer), latency_ms=latency_ms)
