"""`python -m ops status`: one table of what a stack runs, whether it answers, what it costs and until when.

Reads the stack's outputs, the instance at Vast.ai and the server itself. Plans nothing: what drifted in detail is
`python -m ops drift`, whose last finding is shown here.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
import click

from components.errors import ApiUnreachable, RateLimited, ServingError
from components.plugin.session import open_session
from components.vast.models import Contract
from components.vast.ranking import minutes
from components.vllm.client import RerankClient
from ops import report, stack_tags
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK, USAGE, OpsError
from ops.fleet import servers_key
from ops.outputs import Outputs, Replica

PROBE_TIMEOUT_S = 15.0
MAX_CONCURRENCY = 32  # servers that are asked at the same time
HEAD = ("instance", "state", "answers", "$/h", "cost so far", "contract ends", "machine", "place", "url")
CLEAR = "\x1b[H\x1b[2J\x1b[3J"  # ECMA-48: cursor home, erase the screen; and what scrolled off it


@verb("status")
@click.option("--watch", "every_s", type=click.FloatRange(0, min_open=True), is_flag=False, flag_value=5.0,
              metavar="SECONDS", help="Look again every SECONDS (5), on a terminal.")  # fmt: skip
def status(pulumi: Pulumi, *, every_s: float | None) -> Outcome:
    """Show what a stack runs, whether it answers, what it costs and until when."""
    if every_s is None:
        facts = look(pulumi)
        return Outcome(OK, facts, "\n\n".join(rendered(pulumi.name, facts)))
    if not sys.stdout.isatty():
        raise OpsError(USAGE, "--watch draws on a terminal, and there is none", "leave --watch out")
    while True:
        try:
            facts = look(pulumi)
            text = "\n\n".join(rendered(pulumi.name, facts, wide=True))
            print(f"{CLEAR}{text}\n\n{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends it", flush=True)
            time.sleep(every_s)
        except (ApiUnreachable, RateLimited) as error:  # what is passing does not end a watch
            print(f"\n{error}", file=sys.stderr, flush=True)
            time.sleep(every_s)
        except KeyboardInterrupt:
            return Outcome(OK, {}, "")


def look(pulumi: Pulumi) -> dict[str, Any]:
    """Return what the stack has, what Vast.ai says of it and whether it answers."""
    outputs = Outputs.parse(pulumi.outputs())
    since, expires = (stack_tags.get(pulumi, name) for name in (stack_tags.DRIFT_SINCE, stack_tags.EXPIRES))
    rows: list[Mapping[str, Any]] = []
    gateway: Mapping[str, Any] | None = None
    if outputs.replicas:
        client = open_session(lambda key: pulumi.config(key) or None).client
        key = servers_key(pulumi.resources(show_secrets=True)) if outputs.gateway else outputs.api_key
        ca = trusted(outputs)
        with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
            asked = pool.submit(answers, outputs.url, outputs.api_key, ca) if outputs.gateway else None
            contracts = pool.map(client.instance, [one.instance_id for one in outputs.replicas])
            said = pool.map(lambda one: answers(one.url, key, ca), outputs.replicas)
            rows = [row(*each) for each in zip(outputs.replicas, contracts, said, strict=True)]
            if asked is not None:
                gateway = {"url": outputs.url, "answers": asked.result(), "hourly_cost_usd": outputs.gateway_cost_usd}
    return {
        "url": outputs.url,
        "model": outputs.model,
        "instances": rows,
        "gateway": gateway,
        "hourly_cost_usd": outputs.hourly_cost_usd,
        "validation": {None: "never", True: f"passed, {outputs.checks} checks", False: "FAILED"}[outputs.validated],
        "drift_since": since.isoformat() if since else None,
        "expires": expires.isoformat() if expires else None,
    }


def rendered(stack: str, facts: Mapping[str, Any], *, wide: bool = False) -> list[str]:
    """Return the summary's parts, in Markdown; `wide` for a terminal, with columns aligned."""
    title = f"### {report.code(stack)} status"
    if not facts["instances"]:
        return [title, "Nothing is rented."]
    cells = [
        (
            str(one["instance_id"]),
            report.safe(one["state"]),
            report.safe(one["answers"]),
            report.usd(one["hourly_cost_usd"]),
            report.usd(one["cost_usd"], digits=2),
            report.safe(one["contract_end"] or "-"),
            report.safe(f"{one['machine_id']} ({one['gpu']})"),
            report.safe(one["geolocation"] or "-"),
            report.code(one["url"]),
        )
        for one in facts["instances"]
    ]
    if gateway := facts["gateway"]:
        said, cost = report.safe(gateway["answers"]), report.usd(gateway["hourly_cost_usd"])
        cells.append(("gateway", "-", said, cost, "-", "-", "-", "-", report.code(gateway["url"])))
    drift = f"since {facts['drift_since']}" if facts["drift_since"] else "none found by the last check"
    lines = [
        f"Model {report.safe(facts['model'])}; {report.usd(facts['hourly_cost_usd'])}/h in all; "
        f"validation: {facts['validation']}; drift: {drift}."
    ]
    if facts["expires"]:
        lines.append(f"Expires {facts['expires']}.")
    return [title, aligned(HEAD, cells) if wide else report.table(HEAD, cells), *lines]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def row(one: Replica, contract: Contract | None, said: str) -> dict[str, Any]:
    """Return what is known of one instance."""
    started = contract.start_date if contract else 0.0
    age_s = max(time.time() - started, 0.0) if started else None
    return {
        **asdict(one),
        "state": (contract.actual_status or "provisioning") if contract else "gone",
        "answers": said,
        "hourly_cost_usd": contract.dph_total_usd if contract else 0.0,
        "age_s": None if age_s is None else round(age_s),
        "cost_usd": None if age_s is None or contract is None else round(contract.dph_total_usd * age_s / 3600, 4),
        "contract_end": ending(contract),
    }


def ending(contract: Contract | None) -> str | None:
    """Return when the contract ends, and in how long."""
    if contract is None or not contract.end_date:
        return None
    when = datetime.fromtimestamp(contract.end_date, UTC)
    return f"{when:%Y-%m-%d %H:%M} UTC, in {minutes(max(contract.end_date - time.time(), 0))}"


def answers(url: str, key: str, ca: str) -> str:
    """Ask the server for a score; return "yes, N ms" or what came instead."""
    if not url:
        return "no address"
    client = RerankClient(url, key, timeout_s=PROBE_TIMEOUT_S, ca=ca)
    started = time.monotonic()
    try:
        results = client.rerank("ready?", ["yes"]).results
    except ServingError as error:
        return f"no: {error}"
    if not all(math.isfinite(one.score) for one in results):
        return "no: its scores are no numbers"
    return f"yes, {(time.monotonic() - started) * 1000:.0f} ms"


def trusted(outputs: Outputs) -> str:
    """Return the certificates to trust, PEM: the stack's own CA, and those that are trusted anyway; "" for these alone.

    A gateway that clients reach through a front of their own (gateway.url) has a certificate of another CA; one that
    is not public is named by SSL_CERT_FILE, as for every program that uses OpenSSL.
    """
    if not outputs.ca_certificate:
        return ""
    others = Path(os.environ.get("SSL_CERT_FILE") or certifi.where())
    return f"{outputs.ca_certificate}\n{others.read_text() if others.is_file() else ''}"
