"""`python -m ops status`: one table of what a stack runs, whether it answers, what it costs and until when.

Reads the stack's outputs, the instance at Vast.ai and the server itself, and plans nothing. Exit code 7 where one does
not answer, or where the last `python -m ops drift` found drift.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import certifi
import click
from rich.console import Console

from components.config import Config
from components.errors import ApiUnreachable, RateLimited, ServingError, VastRerankerError
from components.plugin.session import open_session
from components.scaling import Sample
from components.vast.bill import Month
from components.vast.models import Contract
from components.vast.ranking import minutes
from components.vllm.client import RerankClient
from ops import report, stack_tags
from ops.command import Outcome, as_markdown, draw, verb
from ops.cost import of_month
from ops.engine import Pulumi
from ops.exits import DRIFT, ERROR, OK, USAGE, OpsError
from ops.fleet import own_keys
from ops.load import samples
from ops.notify import Notice
from ops.outputs import Replica, StackOutputs
from ops.scale import table as load_table
from ops.status_page import page
from ops.status_server import StatusServer
from reranker.endpoint import CLIENT_CERTIFICATE_ENV, CLIENT_KEY_ENV, client_pem
from reranker.errors import InvalidInput

PROBE_TIMEOUT_S = 15.0
SAMPLE_S = 2.0  # of the load on a page
REFRESH_S = 30  # a browser asks again for a page that is served
ENDING_S = 86400.0  # a contract that ends sooner is told
MAX_CONCURRENCY = 32  # servers that are asked at the same time
HEAD = ("instance", "state", "answers", "$/h", "so far", "ends in", "machine", "place")


@dataclass(frozen=True)
class ServerStatus:
    """A replica or the gateway: its answer's time or why none came, and what Vast.ai says of its instance."""

    url: str
    took_ms: float | None
    error: str = ""
    hourly_cost_usd: float = 0.0
    state: str = "-"
    cost_usd: float | None = None
    contract_end: str | None = None
    ends_in: str = "-"

    def row(self, name: str, machine: str = "-", place: str = "-") -> tuple[str, ...]:
        took = "NO" if self.took_ms is None else f"yes, {self.took_ms:.0f} ms"
        dollars = report.usd(self.hourly_cost_usd), report.usd(self.cost_usd, digits=2)
        return (name, report.safe(self.state), took, *dollars, self.ends_in, report.safe(machine), report.safe(place))


@dataclass(frozen=True)
class Bill:
    """The account's credit, and what all that it rents costs per hour."""

    credit_usd: float
    hourly_usd: float

    def __str__(self) -> str:
        lasts = f", {minutes(self.credit_usd / self.hourly_usd * 3600)}" if self.hourly_usd else ""
        return f"Credit ${self.credit_usd:.2f}{lasts} at ${self.hourly_usd:.4f}/h for all that the account rents."


@verb("status")
@click.option("--watch", "every_s", type=click.FloatRange(0, min_open=True), is_flag=False, flag_value=5.0,
              metavar="SECONDS", help="Look again every SECONDS (5), on a terminal.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page, with the month's cost.")
@click.option("--serve", "port", type=click.IntRange(0, 65535), is_flag=False, flag_value=8790, metavar="PORT",
              help="Serve that page to this machine's browsers, at PORT (8790).")  # fmt: skip
@click.option("--all-stacks", is_flag=True, help="On the page: every stack of the backend.")
def status(pulumi: Pulumi, *, every_s: float | None, html: Path | None, port: int | None, all_stacks: bool) -> Outcome:
    """Show what a stack runs, whether it answers, what it costs and until when."""
    if port is not None:
        with StatusServer(port, lambda: page(sections(pulumi, all_stacks), datetime.now(UTC), REFRESH_S)) as server:
            click.echo(f"{server.url}; Ctrl-C ends it", err=True)
            server.serve_forever()
        sys.exit(OK)
    if every_s is None:
        found = look(pulumi)
        if html:
            html.write_text(page(sections(pulumi, all_stacks, found), datetime.now(UTC)))
        return found
    if not sys.stdout.isatty():
        raise OpsError(USAGE, "--watch draws on a terminal, and there is none", "leave --watch out")
    console, found = Console(), Outcome(OK, "not looked at yet")
    try:
        while True:
            try:
                found = look(pulumi)
                console.clear()
                draw("status", pulumi.name, found, console)
                console.print(f"{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends it", highlight=False)
            except (ApiUnreachable, RateLimited) as error:  # what is passing does not end a watch
                console.print(str(error), markup=False)
            time.sleep(every_s)
    except KeyboardInterrupt:  # what it found last is on the screen already
        sys.exit(found.code)


def sections(pulumi: Pulumi, all_stacks: bool, found: Outcome | None = None) -> Iterator[tuple[bool, str]]:
    """Give what a page shows, in Markdown, each with whether all is well. `found`: of the first stack, if known."""
    yield from answers(pulumi, found)
    for name in pulumi.stacks() if all_stacks else ():
        if name != pulumi.name:
            yield from answers(pulumi.other(name))


def answers(pulumi: Pulumi, found: Outcome | None = None) -> Iterator[tuple[bool, str]]:
    """Give what a page shows of a stack: its status, its load, what it costs."""
    try:
        found = found or look(pulumi)
        load = load_of(pulumi)
        month = of_month(pulumi, Month.of(datetime.now(UTC)))
    except (OpsError, VastRerankerError) as error:
        yield False, as_markdown("status", pulumi.name, Outcome(ERROR, "failed", [report.safe(error)]))
        return
    yield found.code == OK, as_markdown("status", pulumi.name, found)
    if load:
        yield load.code == OK, as_markdown("load", pulumi.name, load)
    yield not month.notices, as_markdown("cost", pulumi.name, month)


def load_of(pulumi: Pulumi) -> Outcome | None:
    """Return what the servers of a stack have to do, by their own metrics; None where there is none."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not outputs.replicas:
        return None
    keys = own_keys(pulumi.resources(show_secrets=True))
    return load_summary(samples(outputs, keys, count=1, sample_s=SAMPLE_S))


def load_summary(found: Sequence[Sample]) -> Outcome:
    """Return the load of a sample, if any server told it."""
    if not found:
        return Outcome(ERROR, "no server tells its load")
    return Outcome(OK, f"{found[0].in_flight:.0f} pairs in flight", [load_table(list(found)), f"Over {SAMPLE_S:g} s."])


def look(pulumi: Pulumi) -> Outcome:
    """Return what the stack has, what Vast.ai says of it and whether it answers."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not outputs.replicas:
        headline = "no replica: the gateway answers 503" if outputs.gateway else "nothing is rented"
        return Outcome(OK, headline, (), {"instances": [], "gateway": outputs.url or None})
    since, expires = (stack_tags.get(pulumi, name) for name in (stack_tags.DRIFT_SINCE, stack_tags.EXPIRES))
    client = open_session(pulumi.config).client
    contracts = {one.id: one for one in client.instances()}
    hourly_usd = sum(one.dph_total_usd for one in contracts.values())
    bill = Bill(client.account().credit_usd, round(hourly_usd, 5))
    asked = ask_all(pulumi, outputs, contracts)
    found = summary(pulumi.name, outputs, *asked, bill=bill, since=since, expires=expires)
    runway_h = float(pulumi.config("min_runway_h") or Config().min_runway_h)
    ours = [contracts[one.instance_id] for one in outputs.replicas if one.instance_id in contracts]
    return replace(found, notices=soon_over(bill, runway_h, ours, time.time()))


def soon_over(bill: Bill, runway_h: float, contracts: Iterable[Contract], now: float) -> list[Notice]:
    """Return the notices of a credit that lasts for less than the runway, and of contracts that end within a day."""
    found = []
    if bill.hourly_usd and bill.credit_usd / bill.hourly_usd < runway_h:
        found.append(Notice("credit", str(bill), "low"))
    if ends := [one for one in contracts if one.end_date and one.end_date - now < ENDING_S]:
        text = ", ".join(f"instance {one.id} in {minutes(max(one.end_date - now, 0))}" for one in ends)
        found.append(Notice("ending", text, str([one.id for one in ends])))
    return found


def summary(
    stack: str,
    outputs: StackOutputs,
    servers: Sequence[ServerStatus],
    gateway: ServerStatus | None,
    *,
    bill: Bill,
    since: datetime | None = None,
    expires: datetime | None = None,
) -> Outcome:
    """Return the answer: servers in the order of the replicas; since when it drifts by the last check, and expires."""
    named = {str(one.instance_id): server for one, server in zip(outputs.replicas, servers, strict=True)}
    rows = [
        named[str(one.instance_id)].row(str(one.instance_id), f"{one.machine_id} ({one.gpu})", one.geolocation or "-")
        for one in outputs.replicas
    ]
    dead = sum(one.took_ms is None for one in servers)
    wrong = [f"{dead} of {report.count(len(servers), 'server')} dead"] if dead else []
    if gateway:
        named["gateway"] = gateway
        rows.append(gateway.row("gateway"))
        wrong += [] if gateway.took_ms is not None else ["the gateway is dead"]
    wrong += [f"drift since {since:%Y-%m-%d %H:%M} UTC, by the last check"] if since else []
    validation = {None: "never", True: f"passed, {outputs.checks} checks", False: "FAILED"}[outputs.validated]
    parts = [
        report.table(HEAD, rows),
        report.bullets("Dead", (f"{name}: {one.error}" for name, one in named.items() if one.took_ms is None)),
        report.bullets("Addresses", (f"{name}: {one.url}" for name, one in named.items())),
        f"Model {report.safe(outputs.model)}; {report.usd(outputs.hourly_cost_usd)}/h; validation: {validation}.",
        f"Why: `python -m ops drift --stack {stack}`; `python -m ops heal` repairs it." if wrong else "",
        str(bill),
        f"Expires {expires:%Y-%m-%d %H:%M} UTC." if expires else "",
    ]
    facts = {
        "url": outputs.url,
        "model": outputs.model,
        "instances": [asdict(one) | asdict(server) for one, server in zip(outputs.replicas, servers, strict=True)],
        "gateway": asdict(gateway) if gateway else None,
        "hourly_cost_usd": outputs.hourly_cost_usd,
        "account": asdict(bill),
        "validation": validation,
        "drift_since": since.isoformat() if since else None,
        "expires": expires.isoformat() if expires else None,
    }
    return Outcome(DRIFT if wrong else OK, "; ".join(wrong) or "every server answers", parts, facts)


def ask_all(
    pulumi: Pulumi, outputs: StackOutputs, contracts: Mapping[int, Contract]
) -> tuple[list[ServerStatus], ServerStatus | None]:
    """Ask each server for a score, and the gateway if there is one."""
    keys = own_keys(pulumi.resources(show_secrets=True)) if outputs.gateway else {}
    ca = trusted(outputs)

    def ask(one: Replica) -> ServerStatus:
        key = keys.get(one.instance_id, outputs.api_key)
        return server(probe(one.url, key, ca), contracts.get(one.instance_id))

    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        asked = pool.submit(probe, outputs.url, outputs.api_key, ca) if outputs.gateway else None
        servers = list(pool.map(ask, outputs.replicas))
        return servers, replace(asked.result(), hourly_cost_usd=outputs.gateway_cost_usd) if asked else None


def server(probed: ServerStatus, contract: Contract | None) -> ServerStatus:
    """Return what a server answered with what is known of its instance."""
    if contract is None:
        return replace(probed, state="gone")
    found, now = replace(probed, state=contract.actual_status or "provisioning"), time.time()
    if contract.start_date:
        cost_usd = round(contract.dph_total_usd * max(now - contract.start_date, 0.0) / 3600, 4)
        found = replace(found, cost_usd=cost_usd)
    if contract.end_date:
        end = datetime.fromtimestamp(contract.end_date, UTC).isoformat(timespec="minutes")
        found = replace(found, contract_end=end, ends_in=minutes(max(contract.end_date - now, 0)))
    return replace(found, hourly_cost_usd=contract.dph_total_usd)


def probe(url: str, key: str, ca: str) -> ServerStatus:
    """Ask a server for a score."""
    started = time.monotonic()
    try:
        if not url:
            raise ServingError("no address")
        results = client(url, key, ca, PROBE_TIMEOUT_S).rerank("ready?", ["yes"]).results
        if not all(math.isfinite(one.score) for one in results):
            raise ServingError("its scores are no numbers")
    except ServingError as error:
        return ServerStatus(url, None, str(error))
    return ServerStatus(url, round((time.monotonic() - started) * 1000, 1))


def client(url: str, key: str, ca: str, timeout_s: float) -> RerankClient:
    """Return a client that shows the certificate of the environment, as `rerank` does, where one is asked for. Raises
    OpsError."""
    try:
        shown = client_pem(os.environ.get(CLIENT_CERTIFICATE_ENV, ""), os.environ.get(CLIENT_KEY_ENV, ""))
    except InvalidInput as error:
        raise OpsError(USAGE, str(error)) from None
    return RerankClient(url, key, ca=ca, client_certificate=shown, timeout_s=timeout_s)


def trusted(outputs: StackOutputs) -> str:
    """Return the certificates to trust, PEM: the stack's own CA, and those that are trusted anyway; "" for these alone.

    A gateway that clients reach through a front of their own (gateway.url) has a certificate of another CA; one that
    is not public is named by SSL_CERT_FILE, as for every program that uses OpenSSL.
    """
    if not outputs.ca_certificate:
        return ""
    others = Path(os.environ.get("SSL_CERT_FILE") or certifi.where())
    return f"{outputs.ca_certificate}\n{others.read_text() if others.is_file() else ''}"
