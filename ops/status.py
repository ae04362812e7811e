"""`python -m ops status`: a table of a stack's instances: state, response, cost and end of contract.

Reads the stack's outputs and Vast.ai's instances, and sends a request to each server; runs no preview. Exit code 7 if a
server does not answer, or if the last `python -m ops drift` detected drift.
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
from ops.cost import month_cost
from ops.engine import Pulumi
from ops.exits import DRIFT, ERROR, OK, USAGE, OpsError
from ops.fleet import server_keys
from ops.load import take_samples
from ops.notify import Notice
from ops.outputs import Replica, StackOutputs
from ops.scale import table as load_table
from ops.status_page import page
from ops.status_server import StatusServer
from reranker.endpoint import CLIENT_CERTIFICATE_ENV, CLIENT_KEY_ENV, client_pem
from reranker.errors import InvalidInput

PROBE_TIMEOUT_S = 15.0
SAMPLE_S = 2.0  # sample of the load on a page
REFRESH_S = 30  # a browser reloads a served page
ENDING_S = 86400.0  # a contract that ends sooner causes a notice
MAX_CONCURRENCY = 32
HEAD = ("instance", "state", "answers", "$/h", "so far", "ends in", "machine", "location")


@dataclass(frozen=True)
class ServerStatus:
    """A replica or the gateway: its response time (None and an error without an answer), and its contract's data."""

    url: str
    took_ms: float | None
    error: str = ""
    hourly_cost_usd: float = 0.0
    state: str = "-"
    cost_usd: float | None = None
    contract_end: str | None = None
    ends_in: str = "-"

    def row(self, name: str, machine: str = "-", location: str = "-") -> tuple[str, ...]:
        took = "NO" if self.took_ms is None else f"yes, {self.took_ms:.0f} ms"
        costs = report.usd(self.hourly_cost_usd), report.usd(self.cost_usd, digits=2)
        return (name, report.safe(self.state), took, *costs, self.ends_in, report.safe(machine), report.safe(location))


@dataclass(frozen=True)
class Bill:
    """The account's credit, and the cost per hour of all its instances."""

    credit_usd: float
    hourly_usd: float

    def __str__(self) -> str:
        lasts = f", {minutes(self.credit_usd / self.hourly_usd * 3600)}" if self.hourly_usd else ""
        return f"Credit ${self.credit_usd:.2f}{lasts} at ${self.hourly_usd:.4f}/h for all instances of the account."


@verb("status")
@click.option("--watch", "every_s", type=click.FloatRange(0, min_open=True), is_flag=False, flag_value=5.0,
              metavar="SECONDS", help="Refresh every SECONDS (5), on a terminal.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with status and costs.")
@click.option("--serve", "port", type=click.IntRange(0, 65535), is_flag=False, flag_value=8790, metavar="PORT",
              help="Serve that page on 127.0.0.1:PORT (8790).")  # fmt: skip
@click.option("--all-stacks", is_flag=True, help="Show every stack of the backend on the page.")
def status(pulumi: Pulumi, *, every_s: float | None, html: Path | None, port: int | None, all_stacks: bool) -> Outcome:
    """Show a stack's instances: state, response, cost and end of contract."""
    if port is not None:
        with StatusServer(port, lambda: page(sections(pulumi, all_stacks), datetime.now(UTC), REFRESH_S)) as server:
            click.echo(f"{server.url}; Ctrl-C ends it", err=True)
            server.serve_forever()
        sys.exit(OK)
    if every_s is None:
        outcome = stack_status(pulumi)
        if html:
            html.write_text(page(sections(pulumi, all_stacks, outcome), datetime.now(UTC)))
        return outcome
    if not sys.stdout.isatty():
        raise OpsError(USAGE, "--watch needs a terminal", "omit --watch")
    console, outcome = Console(), Outcome(OK, "no status yet")
    try:
        while True:
            try:
                outcome = stack_status(pulumi)
                console.clear()
                draw("status", pulumi.name, outcome, console)
                console.print(f"{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends it", highlight=False)
            except (ApiUnreachable, RateLimited) as error:  # temporary errors do not end a watch
                console.print(str(error), markup=False)
            time.sleep(every_s)
    except KeyboardInterrupt:  # the terminal already shows the last result
        sys.exit(outcome.code)


def sections(pulumi: Pulumi, all_stacks: bool, outcome: Outcome | None = None) -> Iterator[tuple[bool, str]]:
    """Yield a page's sections: whether all is well, and Markdown. `outcome`: status of the first stack, if known."""
    yield from stack_sections(pulumi, outcome)
    for name in pulumi.stacks() if all_stacks else ():
        if name != pulumi.short_name:
            yield from stack_sections(pulumi.other(name))


def stack_sections(pulumi: Pulumi, outcome: Outcome | None = None) -> Iterator[tuple[bool, str]]:
    """Yield a stack's sections: its status, its load, its cost."""
    try:
        outcome = outcome or stack_status(pulumi)
        load = stack_load(pulumi)
        month = month_cost(pulumi, Month.of(datetime.now(UTC)))
    except (OpsError, VastRerankerError) as error:
        yield False, as_markdown("status", pulumi.name, Outcome(ERROR, "failed", [report.safe(error)]))
        return
    yield outcome.code == OK, as_markdown("status", pulumi.name, outcome)
    if load:
        yield load.code == OK, as_markdown("load", pulumi.name, load)
    yield not month.notices, as_markdown("cost", pulumi.name, month)


def stack_load(pulumi: Pulumi) -> Outcome | None:
    """Return the load of a stack's servers from their metrics; None without servers."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not outputs.replicas:
        return None
    keys = server_keys(pulumi.resources(show_secrets=True))
    return load_summary(take_samples(outputs, keys, count=1, sample_s=SAMPLE_S))


def load_summary(samples: Sequence[Sample]) -> Outcome:
    if not samples:
        return Outcome(ERROR, "no server returns metrics")
    return Outcome(OK, f"{samples[0].in_flight:.0f} pairs in flight", [load_table(samples), f"Over {SAMPLE_S:g} s."])


def stack_status(pulumi: Pulumi) -> Outcome:
    """Return a stack's status: outputs, instances at Vast.ai, responses of the servers."""
    outputs = StackOutputs.parse(pulumi.outputs())
    if not outputs.replicas:
        headline = "no replica: the gateway answers 503" if outputs.has_gateway else "nothing is rented"
        return Outcome(OK, headline, (), {"instances": [], "gateway": outputs.url or None})
    since, expires = (stack_tags.get_time(pulumi, name) for name in (stack_tags.DRIFT_SINCE, stack_tags.EXPIRES))
    client = open_session(pulumi.config).client
    contracts = {contract.id: contract for contract in client.instances()}
    hourly_usd = sum(contract.dph_total_usd for contract in contracts.values())
    bill = Bill(client.account().credit_usd, round(hourly_usd, 5))
    servers, gateway = probe_all(pulumi, outputs, contracts)
    outcome = summarize(pulumi.name, outputs, servers, gateway, bill=bill, since=since, expires=expires)
    runway_h = float(pulumi.config("min_runway_h") or Config().min_runway_h)
    rented = [contracts[replica.instance_id] for replica in outputs.replicas if replica.instance_id in contracts]
    return replace(outcome, notices=account_notices(bill, runway_h, rented, time.time()))


def account_notices(bill: Bill, runway_h: float, contracts: Iterable[Contract], now: float) -> list[Notice]:
    """Return notices for a credit below the runway, and for contracts that end within a day."""
    notices = []
    if bill.hourly_usd and bill.credit_usd / bill.hourly_usd < runway_h:
        notices.append(Notice("credit", str(bill), "low"))
    if ends := {row.id: row.end_date - now for row in contracts if row.end_date and row.end_date - now < ENDING_S}:
        text = ", ".join(f"instance {id_} in {minutes(max(seconds, 0))}" for id_, seconds in ends.items())
        notices.append(Notice("ending", text, str(list(ends))))
    return notices


def summarize(
    stack: str,
    outputs: StackOutputs,
    servers: Sequence[ServerStatus],
    gateway: ServerStatus | None,
    *,
    bill: Bill,
    since: datetime | None = None,
    expires: datetime | None = None,
) -> Outcome:
    """Return the outcome. `servers`: in the order of the replicas; `since`: start of drift; `expires`: review stack."""
    replicas = list(zip(outputs.replicas, servers, strict=True))
    statuses = {str(replica.instance_id): server for replica, server in replicas}
    rows = [
        server.row(str(row.instance_id), f"{row.machine_id} ({row.gpu})", row.geolocation or "-")
        for row, server in replicas
    ]
    dead = sum(server.took_ms is None for server in servers)
    problems = [f"{dead} of {report.count(len(servers), 'server')} dead"] if dead else []
    if gateway:
        statuses["gateway"] = gateway
        rows.append(gateway.row("gateway"))
        problems += [] if gateway.took_ms is not None else ["the gateway is dead"]
    problems += [f"drift since {since:%Y-%m-%d %H:%M} UTC, by the last check"] if since else []
    validation = {None: "never", True: f"passed, {outputs.checks} checks", False: "FAILED"}[outputs.validated]
    parts = [
        report.table(HEAD, rows),
        report.bullets("Dead", (f"{name}: {row.error}" for name, row in statuses.items() if row.took_ms is None)),
        report.bullets("Addresses", (f"{name}: {row.url}" for name, row in statuses.items())),
        f"Model {report.safe(outputs.model)}; {report.usd(outputs.hourly_cost_usd)}/h; validation: {validation}.",
        f"Why: `python -m ops drift --stack {stack}`; `python -m ops heal` repairs it." if problems else "",
        str(bill),
        f"Expires {expires:%Y-%m-%d %H:%M} UTC." if expires else "",
    ]
    facts = {
        "url": outputs.url,
        "model": outputs.model,
        "instances": [asdict(replica) | asdict(server) for replica, server in replicas],
        "gateway": asdict(gateway) if gateway else None,
        "hourly_cost_usd": outputs.hourly_cost_usd,
        "account": asdict(bill),
        "validation": validation,
        "drift_since": since.isoformat() if since else None,
        "expires": expires.isoformat() if expires else None,
    }
    return Outcome(DRIFT if problems else OK, "; ".join(problems) or "every server answers", parts, facts)


def probe_all(
    pulumi: Pulumi, outputs: StackOutputs, contracts: Mapping[int, Contract]
) -> tuple[list[ServerStatus], ServerStatus | None]:
    """Request a score from each server, and from the gateway if there is one."""
    keys = server_keys(pulumi.resources(show_secrets=True)) if outputs.has_gateway else {}
    ca = trusted_certificates(outputs)

    def probe_replica(replica: Replica) -> ServerStatus:
        key = keys.get(replica.instance_id, outputs.api_key)
        return add_contract(probe(replica.url, key, ca), contracts.get(replica.instance_id))

    with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
        gateway = pool.submit(probe, outputs.url, outputs.api_key, ca) if outputs.has_gateway else None
        servers = list(pool.map(probe_replica, outputs.replicas))
        return servers, replace(gateway.result(), hourly_cost_usd=outputs.gateway_cost_usd) if gateway else None


def add_contract(status: ServerStatus, contract: Contract | None) -> ServerStatus:
    """Add the data of a server's contract to its status."""
    if contract is None:
        return replace(status, state="gone")
    status, now = replace(status, state=contract.actual_status or "provisioning"), time.time()
    if contract.start_date:
        cost_usd = round(contract.dph_total_usd * max(now - contract.start_date, 0.0) / 3600, 4)
        status = replace(status, cost_usd=cost_usd)
    if contract.end_date:
        end = datetime.fromtimestamp(contract.end_date, UTC).isoformat(timespec="minutes")
        status = replace(status, contract_end=end, ends_in=minutes(max(contract.end_date - now, 0)))
    return replace(status, hourly_cost_usd=contract.dph_total_usd)


def probe(url: str, key: str, ca: str) -> ServerStatus:
    start = time.monotonic()
    try:
        if not url:
            raise ServingError("no address")
        results = create_client(url, key, ca, PROBE_TIMEOUT_S).rerank("ready?", ["yes"]).results
        if not all(math.isfinite(result.score) for result in results):
            raise ServingError("its scores are no finite numbers")
    except ServingError as error:
        return ServerStatus(url, None, str(error))
    return ServerStatus(url, round((time.monotonic() - start) * 1000, 1))


def create_client(url: str, key: str, ca: str, timeout_s: float) -> RerankClient:
    """Return a client with the client certificate of the environment, if any, as in `rerank`. Raises OpsError."""
    try:
        certificate = client_pem(os.environ.get(CLIENT_CERTIFICATE_ENV, ""), os.environ.get(CLIENT_KEY_ENV, ""))
    except InvalidInput as error:
        raise OpsError(USAGE, str(error)) from None
    return RerankClient(url, key, ca=ca, client_certificate=certificate, timeout_s=timeout_s)


def trusted_certificates(outputs: StackOutputs) -> str:
    """Return the CA certificates to trust, PEM: the stack's CA and the public ones; "" for only the public ones.

    If clients reach the gateway through a proxy of their own (gateway.url), its certificate is from another CA. If that
    CA is not public, SSL_CERT_FILE names it, as for every program that uses OpenSSL.
    """
    if not outputs.ca_certificate:
        return ""
    public = Path(os.environ.get("SSL_CERT_FILE") or certifi.where())
    return f"{outputs.ca_certificate}\n{public.read_text() if public.is_file() else ''}"
