"""RerankValidation: scores real pairs on the server after each deploy, as a resource; `pulumi up` fails if it fails.

Runs again when the instance, its address, the model or the checks change, and on demand (`run`: any new text).
The checks themselves are `components.vllm.checks`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, UpdateResult

from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, known, verb
from components.vast.change import same
from components.vast.identity import ca_file
from components.vllm.catalog import load_catalog
from components.vllm.checks import CHECKS_VERSION, run_checks
from components.vllm.client import RerankClient
from components.vllm.doors import table

WATCHED = ("url", "instance_id", "model", "guard", "ca_certificate", "checks_version", "run", "max_latency_ms")


@dataclass
class RerankValidationArgs:
    """What to validate: the server's address and key, its model and instance, whether every door should be closed.

    `max_latency_ms`: the median request may take no longer; 0 for no bound.
    """

    url: pulumi.Input[str]
    api_key: pulumi.Input[str]
    model: pulumi.Input[str]
    instance_id: pulumi.Input[int]
    guard: bool = True
    ca_certificate: pulumi.Input[str] = ""
    run: str = ""
    checks_version: int = CHECKS_VERSION
    max_latency_ms: float = 0.0


class RerankValidationProvider(VastProvider):
    """Runs the checks on create and on update."""

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Compare what is validated; a new key alone needs no new scores, but its record does."""
        keys = (*WATCHED, "api_key")
        return DiffResult(
            changes=any(not known(news.get(key)) or not same(olds.get(key), news.get(key)) for key in keys)
        )

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Run the checks. Raises ValidationFailed with each check that failed, ServerUnreachable, ServerError."""
        return CreateResult(secrets.token_hex(4), _validated(props))

    @verb
    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Run the checks again."""
        return UpdateResult(_validated(news))


def _validated(props: dict[str, Any]) -> dict[str, Any]:
    model = load_catalog().model(props["model"])
    ENGINE.log(f"scoring golden pairs of {model.name} on {props['url']}/rerank", ephemeral=True)
    ca = ca_file(str(props["ca_certificate"])) if props.get("ca_certificate") else None
    client = RerankClient(props["url"], props["api_key"], verify=ca or True, timeout_s=60.0)
    report = run_checks(
        client,
        model,
        doors_closed=bool(props.get("guard")),
        ca_file=ca,
        max_latency_ms=float(props.get("max_latency_ms") or 0.0),
    )
    if report.doors:
        ENGINE.log(f"what every route says to those who may not come in:\n{table(report.doors)}")
    report.raise_if_failed()
    passed = f"{sum(check.passed and not check.skipped for check in report.checks)} checks passed"
    ENGINE.log(f"{passed}; weights that ran: {report.weights}")
    summary = {
        "passed": report.passed,
        "model": model.name,
        "weights": report.weights,
        "skipped": [check.name for check in report.checks if check.skipped],
        "checks": {check.name: check.saw for check in report.checks},
    }
    return {**props, "summary": summary}


class RerankValidation(Resource, module="vast", name="RerankValidation"):
    """A validated endpoint. Output: `summary`, what each check saw."""

    url: pulumi.Output[str]
    summary: pulumi.Output[dict[str, Any]]

    def __init__(self, name: str, args: RerankValidationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        inputs = {**vars(args), "api_key": pulumi.Output.secret(args.api_key)}
        super().__init__(RerankValidationProvider(), name, {"summary": None, **inputs}, opts)
