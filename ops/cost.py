"""`python -m ops cost`: the cost of a stack in a month, by day and by use, and a forecast for the month.

Reads the stack's ledger, adds events that only Vast.ai has (rented by a killed run, ended between runs), and compares
the ledger with Vast.ai's charges.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click

from components.errors import VastError
from components.plugin.session import open_session
from components.stack_ledger import Ledger, append_all, open_ledger
from components.vast.bill import (
    USES,
    Month,
    Use,
    cost_by_day,
    cost_usd,
    forecast_usd,
    growth_usd_h,
    hourly_usd,
    month_to_date,
    over_budget,
    spans,
)
from components.vast.ledger import Entry, fold, missing_events
from components.vast.models import Charge
from ops import cost_plot, report
from ops.command import Outcome, verb
from ops.engine import Pulumi
from ops.exits import OK
from ops.notify import Notice

MIN_DIFFERENCE_USD = 0.01  # a smaller difference between a contract's cost and its charge is not listed


@dataclass(frozen=True)
class Accounts:
    """The ledger's contracts of a stack; Vast.ai's charges for them by id; $/h of the running instances by id.

    `added`: the number of events added to the ledger. `unshared`: why these are only in a file of this checkout, or "".
    `unread`: why the request to Vast.ai failed, or "".
    """

    entries: Sequence[Entry]
    charges: Mapping[int, Charge] = field(default_factory=dict)
    prices: Mapping[int, float] = field(default_factory=dict)
    added: int = 0
    unshared: str = ""
    unread: str = ""


@verb("cost")
@click.option("--month", type=click.DateTime(["%Y-%m"]), help="YYYY-MM; default: the current month. Days are in UTC.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write day, use and dollars to this file.")
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), help="Plot dollars by day and use to this file.")
def cost(pulumi: Pulumi, *, month: datetime | None, csv_file: Path | None, svg_file: Path | None) -> Outcome:
    """Show the cost of a stack in a month, and a forecast for the month."""
    span = Month.of(month or datetime.now(UTC))
    outcome = month_cost(pulumi, span)
    if svg_file:
        title = f"{_base(pulumi)}: {outcome.headline}"
        svg_file.write_text(cost_plot.svg(title, [name for name, *_ in span.days()], outcome.facts["days"]))
    if csv_file:
        with csv_file.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("day", "use", "usd"))
            for day, uses in outcome.facts["days"].items():
                rows.writerows((day, use, usd) for use, usd in uses.items())
    return outcome


def month_cost(pulumi: Pulumi, month: Month) -> Outcome:
    """Settle the ledger of a stack with Vast.ai, and return the cost of a month."""
    ledger, now = stack_ledger(pulumi), datetime.now(UTC).timestamp()
    return summarize(settle(pulumi, ledger, month, now), month, now, budget_usd(pulumi), str(ledger))


def stack_ledger(pulumi: Pulumi) -> Ledger:
    return open_ledger(_base(pulumi), os.environ, pulumi.cwd)


def budget_usd(pulumi: Pulumi) -> float | None:
    return float(pulumi.config("budget_usd_month") or 0) or None


def budget_warning(pulumi: Pulumi, hourly: float) -> str:
    """Return a warning if `hourly` dollars per hour would exceed this month's budget, else ""."""
    if (budget := budget_usd(pulumi)) is None:
        return ""
    now = datetime.now(UTC)
    entries = fold(stack_ledger(pulumi).events()).values()
    return over_budget(budget, month_to_date(entries, Month.of(now), now.timestamp()), hourly)


def room_usd_h(pulumi: Pulumi) -> float | None:
    """Settle the ledger; return the $/h by which a stack may grow within budget_usd_month, or None if that is unset."""
    if (budget := budget_usd(pulumi)) is None:
        return None
    now = datetime.now(UTC)
    month, at = Month.of(now), now.timestamp()
    accounts = settle(pulumi, stack_ledger(pulumi), month, at)
    hourly = hourly_usd(accounts.entries, accounts.prices)
    return growth_usd_h(budget, month_to_date(accounts.entries, month, at), hourly)


def settle(pulumi: Pulumi, ledger: Ledger, month: Month, now: float) -> Accounts:
    """Add the events that the ledger lacks, and return the ledger's and Vast.ai's accounts."""
    events = ledger.events()
    entries = fold(events)
    since = min([month.since, *(entry.since for entry in entries.values() if entry.until is None)])
    try:
        client = open_session(lambda key: pulumi.config(key) or None).client
        contracts, charges = client.instances(), client.charges(since, max(month.until, now))
    except VastError as error:
        return Accounts(list(entries.values()), unread=str(error))
    added = missing_events(entries, contracts, charges, _base(pulumi), now)
    unshared = append_all(ledger, added)
    entries = fold([*events, *added])
    charged = {charge.instance_id: charge for charge in charges if charge.instance_id in entries}
    prices = {contract.id: contract.dph_total_usd for contract in contracts}
    return Accounts(list(entries.values()), charged, prices, len(added), unshared)


def summarize(accounts: Accounts, month: Month, now: float, budget: float | None, ledger: str) -> Outcome:
    entries = [entry for entry in accounts.entries if entry.since < month.until and (entry.until or now) >= month.since]
    ids = [entry.instance_id for entry in entries]
    charged = {id_: accounts.charges[id_].amount_usd for id_ in ids if id_ in accounts.charges}
    days, so_far_usd = cost_by_day(spans(accounts.entries, now), month), month_to_date(accounts.entries, month, now)
    hourly = hourly_usd(accounts.entries, accounts.prices)
    total: dict[Use, float] = {use: sum(day.get(use, 0.0) for day in days.values()) for use in USES}
    rows = [_row(day, uses) for day, uses in days.items()]
    forecast, warning = forecast_usd(so_far_usd, hourly), over_budget(budget, so_far_usd, hourly)
    name = f"{datetime.fromtimestamp(month.since, UTC):%Y-%m}"
    parts = [
        report.table(("day", *USES, "total"), [*rows, _row(name, total)]) if rows else "Nothing was rented.",
        f"Now {report.usd(hourly)}/h; forecast for {name}: {report.usd(forecast, digits=2)}.",
        report.bullets("Warnings", list(filter(None, [warning, accounts.unshared]))),
        _compare(accounts.unread, entries, charged, now),
        f"The ledger is {report.code(ledger)}"
        + (f"; {report.count(accounts.added, 'missing event')} added." if accounts.added else "."),
    ]
    facts = {
        "month": name,
        "days": days,
        "total": total,
        "spent_usd": so_far_usd.spent_usd,
        "hourly_usd": hourly,
        "forecast_usd": forecast,
        "budget_usd_month": budget,
        "over_budget": warning,
        "charged_usd": charged,
        "unread": accounts.unread,
        "contracts": [asdict(entry) | {"cost_usd": cost_usd(entry, now)} for entry in entries],
    }
    notices = [Notice("budget", warning, name)] if warning else []
    return Outcome(OK, f"{report.usd(so_far_usd.spent_usd, digits=2)} in {name}", parts, facts, notices)


def _row(name: str, uses: Mapping[Use, float]) -> tuple[str, ...]:
    cells = (report.usd(uses[use]) if uses.get(use) else "-" for use in USES)
    return (name, *cells, report.usd(sum(uses.values())))


def _compare(unread: str, entries: Sequence[Entry], charged: Mapping[int, float], now: float) -> str:
    """Return the difference between Vast.ai's charges and the ledger, and the contracts that differ by over a cent."""
    if unread:
        return f"Not compared with Vast.ai's charges: {report.safe(unread)}"
    costs = {entry.instance_id: cost_usd(entry, now) for entry in entries if entry.instance_id in charged}
    differences = {id_: usd - costs[id_] for id_, usd in charged.items()}
    rows = [
        f"instance {id_}: {usd:+.4f} to {report.usd(costs[id_])}"
        for id_, usd in differences.items()
        if abs(usd) >= MIN_DIFFERENCE_USD
    ]
    text = (
        f"Vast.ai has charged {report.usd(sum(charged.values()))} for {report.count(len(charged), 'contract')} of this "
        f"month, from rent to end: {sum(differences.values()):+.4f} to the ledger."
    )
    missing_count = len(entries) - len(charged)
    no_charge = f"No charge yet for {report.count(missing_count, 'contract')}." if missing_count else ""
    return "\n\n".join(filter(None, [text, no_charge, report.bullets("Charged otherwise", rows)]))


def _base(pulumi: Pulumi) -> str:
    return f"{pulumi.project}/{pulumi.short_name}"
