"""RerankValidation: scores real pairs on the servers after each deploy, as a resource; a failure fails `pulumi up`.

One resource validates all servers at the same time: new or moved servers, and all servers when the model, the key or
the checks change, or on demand (`run`: any new text). The checks are in `components.vllm.checks`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, verb
from components.servers import Server, call_servers, changed_servers, has_changed
from components.vast.identity import server_name
from components.vllm.catalog import load_catalog
from components.vllm.checks import CHECKS_VERSION, Report, run_checks
from components.vllm.client import RerankClient
from components.vllm.route_audit import markdown_table

# a change of these affects every server
COMMON = ("api_key", "stack_secret", "model", "guard", "ca_certificate", "checks_version", "run", "max_latency_ms")


@dataclass
class RerankValidationArgs:
    """Inputs of a validation. `servers`: name, url, instance_id, nonce. `guard`: whether all routes need a key.

    `api_key`: accepted by all servers; without it each server's own key is used, which derives from `stack_secret` and
    may list a guarded server's routes.
    `max_latency_ms`: limit of the median request; 0 for no limit.
    """

    servers: pulumi.Input[Sequence[Mapping[str, Any]]]
    model: pulumi.Input[str]
    api_key: pulumi.Input[str] = ""
    stack_secret: pulumi.Input[str] = ""
    guard: bool = True
    ca_certificate: pulumi.Input[str] = ""
    run: str = ""
    checks_version: int = CHECKS_VERSION
    max_latency_ms: float = 0.0


class RerankValidationProvider(VastProvider):
    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=has_changed(olds, news, COMMON))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Run the checks. Raises ValidationFailed with all failed checks, ServerUnreachable, ServerError."""
        return CreateResult(secrets.token_hex(4), _validate({}, props))

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_validate(olds, news))


def _validate(olds: Mapping[str, Any], props: dict[str, Any]) -> dict[str, Any]:
    model = load_catalog().model(props["model"])
    ca, secret = str(props.get("ca_certificate") or ""), str(props.get("stack_secret") or "")
    servers, due = Server.parse_all(props["servers"]), changed_servers(olds, props, COMMON)
    if due:
        urls = ", ".join(server.url for server in due)
        ENGINE.log(f"scoring golden pairs of {model.name} on /rerank of {urls}", ephemeral=True)

    def check(server: Server) -> Report:
        manager = RerankClient(server.url, server.own_key(secret), ca=ca, timeout_s=60.0)
        api_key = props.get("api_key")
        report = run_checks(
            RerankClient(server.url, str(api_key), ca=ca, timeout_s=60.0) if api_key else manager,
            model,
            routes_closed=bool(props.get("guard")),
            manager=manager,
            thorough=server is due[0],  # all servers run the same image and command
            ca=ca,
            server_name=server_name(server.nonce),
            max_latency_ms=float(props.get("max_latency_ms") or 0.0),
        )
        if report.audited and not report.passed:
            ENGINE.log(f"answers of all routes to unauthorized callers:\n{markdown_table(report.audited)}")
        report.raise_if_failed()
        return report

    reports = call_servers(due, check)
    summary, report = dict(olds.get("summary") or {}), olds.get("report")
    if due:
        first = reports[due[0].name]
        report = {item.name: item.saw for item in first.checks}
        count = "1 server" if len(due) == 1 else f"{len(due)} servers"
        ENGINE.log(f"{first.count} checks passed on {count}; weights: {first.weights}")
        summary |= {
            "passed": True,
            "model": model.name,
            "weights": first.weights,
            "skipped": [item.name for item in first.checks if item.skipped],
            "checks": first.count,
        }
    before = summary.get("servers") or {}
    rows = {name: {"checks": result.count, "weights": result.weights} for name, result in reports.items()}
    summary["servers"] = {server.name: rows.get(server.name) or before.get(server.name) for server in servers}
    return {**props, "urls": [server.url for server in servers], "summary": summary, "report": report}


class RerankValidation(VastResource, name="Validation"):
    """Validated endpoints. Outputs: `urls` of the servers, known after the validation of all; `summary`: number of
    passed checks, also by server (`servers`); `report`: the result of each check on the first server."""

    urls: pulumi.Output[list[str]]
    summary: pulumi.Output[dict[str, Any]]
    report: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: RerankValidationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(RerankValidationProvider(), name, args, opts, secret=("api_key", "stack_secret"))
