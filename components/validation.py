"""RerankValidation: scores real pairs on the servers after each deploy, as a resource; `pulumi up` fails with it.

One for all servers, which are validated at once: those that are new or have moved, and all of them when the model, the
key or the checks change, or on demand (`run`: any new text). The checks themselves are `components.vllm.checks`.
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
from components.servers import Server, changed, differs, on_each
from components.vast.identity import server_name
from components.vllm.catalog import load_catalog
from components.vllm.checks import CHECKS_VERSION, Report, run_checks
from components.vllm.client import RerankClient
from components.vllm.route_audit import markdown_table

# a change of these is one for every server
COMMON = ("api_key", "stack_secret", "model", "guard", "ca_certificate", "checks_version", "run", "max_latency_ms")


@dataclass
class RerankValidationArgs:
    """What to validate: the servers (name, url, instance_id, nonce), model, and whether all routes are closed.

    `api_key`: what all servers accept; without it each is asked with its own key, which derives from `stack_secret` and
    lists a guarded server's routes.
    `max_latency_ms`: the median request may take no longer; 0 for no bound.
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
    """Runs the checks on create and on update."""

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=differs(olds, news, COMMON))

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Run the checks. Raises ValidationFailed with each check that failed, ServerUnreachable, ServerError."""
        return CreateResult(secrets.token_hex(4), _validated({}, props))

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_validated(olds, news))


def _validated(olds: Mapping[str, Any], props: dict[str, Any]) -> dict[str, Any]:
    model = load_catalog().model(props["model"])
    ca, secret = str(props.get("ca_certificate") or ""), str(props.get("stack_secret") or "")
    servers, due = Server.listed(props["servers"]), changed(olds, props, COMMON)
    if due:
        where = ", ".join(one.url for one in due)
        ENGINE.log(f"scoring golden pairs of {model.name} on /rerank of {where}", ephemeral=True)

    def checked(server: Server) -> Report:
        own = RerankClient(server.url, server.own_key(secret), ca=ca, timeout_s=60.0)
        given = props.get("api_key")
        report = run_checks(
            RerankClient(server.url, str(given), ca=ca, timeout_s=60.0) if given else own,
            model,
            routes_closed=bool(props.get("guard")),
            manager=own,
            thorough=server is due[0],  # all run one image by one command
            ca=ca,
            server_name=server_name(server.nonce),
            max_latency_ms=float(props.get("max_latency_ms") or 0.0),
        )
        if report.audited and not report.passed:
            ENGINE.log(f"what every route says to unauthorized callers:\n{markdown_table(report.audited)}")
        report.raise_if_failed()
        return report

    reports = on_each(due, checked)
    summary, report = dict(olds.get("summary") or {}), olds.get("report")
    if due:
        first = reports[due[0].name]
        report = {check.name: check.saw for check in first.checks}
        where = "1 server" if len(due) == 1 else f"{len(due)} servers"
        ENGINE.log(f"{first.count} checks passed on {where}; weights that ran: {first.weights}")
        summary |= {
            "passed": True,
            "model": model.name,
            "weights": first.weights,
            "skipped": [check.name for check in first.checks if check.skipped],
            "checks": first.count,
        }
    before = summary.get("servers") or {}
    rows = {name: {"checks": one.count, "weights": one.weights} for name, one in reports.items()}
    summary["servers"] = {one.name: rows.get(one.name) or before.get(one.name) for one in servers}
    return {**props, "urls": [one.url for one in servers], "summary": summary, "report": report}


class RerankValidation(VastResource, name="Validation"):
    """Validated endpoints. Outputs: `urls` of the servers, known once all are validated; `summary`: how many checks
    passed, on each too (`servers`); `report`: what each check saw on the first."""

    urls: pulumi.Output[list[str]]
    summary: pulumi.Output[dict[str, Any]]
    report: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: RerankValidationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(RerankValidationProvider(), name, args, opts, secret=("api_key", "stack_secret"))
