"""`python -m ops cost`: what a stack has cost in a month, by day and by what it was for, and what the month will cost.

Reads the stack's ledger, adds to it what only Vast.ai knows (what a killed run rented, what ended while nobody looked),
and shows the difference to Vast.ai's own charges.
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
from components.ledger_file import LedgerFile, ledger_file
from components.plugin.session import open_session
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

SHOWN_USD = 0.01  # a difference of a contract from its charge


@dataclass(frozen=True)
class Accounts:
    """A stack's contracts by its ledger; what Vast.ai charged for them, by id; $/h of those that run now.

    `added`: how many events the ledger lacked. `unread`: why Vast.ai could not be asked, or "".
    """

    entries: Sequence[Entry]
    charges: Mapping[int, Charge] = field(default_factory=dict)
    prices: Mapping[int, float] = field(default_factory=dict)
    added: int = 0
    unread: str = ""


@verb("cost")
@click.option("--month", type=click.DateTime(["%Y-%m"]), help="YYYY-MM; by default this one. Days are UTC's.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write day, use and dollars to this file.")
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), help="Draw dollars by day and use to this file.")
def cost(pulumi: Pulumi, *, month: datetime | None, csv_file: Path | None, svg_file: Path | None) -> Outcome:
    """Show what a stack has cost in a month, and what the month will cost."""
    span = Month.of(month or datetime.now(UTC))
    outcome = of_month(pulumi, span)
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


def of_month(pulumi: Pulumi, month: Month) -> Outcome:
    """Settle the ledger of a stack with Vast.ai, and return what a month has cost."""
    ledger, now = stack_ledger(pulumi), datetime.now(UTC).timestamp()
    return summary(settle(pulumi, ledger, month, now), month, now, budget_usd(pulumi), ledger.path)


def stack_ledger(pulumi: Pulumi) -> LedgerFile:
    """Return the ledger of a stack."""
    return ledger_file(_base(pulumi), os.environ, pulumi.cwd)


def budget_usd(pulumi: Pulumi) -> float | None:
    """Return budget_usd_month, or None."""
    return float(pulumi.config("budget_usd_month") or 0) or None


def budget_warning(pulumi: Pulumi, hourly: float) -> str:
    """Return a warning where this month will have cost more than its budget at so many dollars per hour, or ""."""
    if (budget := budget_usd(pulumi)) is None:
        return ""
    now = datetime.now(UTC)
    entries = fold(stack_ledger(pulumi).events()).values()
    return over_budget(budget, month_to_date(entries, Month.of(now), now.timestamp()), hourly)


def room_usd_h(pulumi: Pulumi) -> float | None:
    """Return dollars per hour by which a stack may grow within budget_usd_month, by a ledger settled with Vast.ai."""
    if (budget := budget_usd(pulumi)) is None:
        return None
    now = datetime.now(UTC)
    month, at = Month.of(now), now.timestamp()
    accounts = settle(pulumi, stack_ledger(pulumi), month, at)
    hourly = hourly_usd(accounts.entries, accounts.prices)
    return growth_usd_h(budget, month_to_date(accounts.entries, month, at), hourly)


def settle(pulumi: Pulumi, ledger: LedgerFile, month: Month, now: float) -> Accounts:
    """Add to the ledger what only Vast.ai knows, and return both accounts."""
    entries = fold(ledger.events())
    since = min([month.since, *(one.since for one in entries.values() if one.until is None)])
    try:
        client = open_session(lambda key: pulumi.config(key) or None).client
        contracts, charges = client.instances(), client.charges(since, max(month.until, now))
    except VastError as error:
        return Accounts(list(entries.values()), unread=str(error))
    added = missing_events(entries, contracts, charges, _base(pulumi), now)
    for event in added:
        ledger.append(event)
    entries = fold(ledger.events()) if added else entries
    charged = {one.instance_id: one for one in charges if one.instance_id in entries}
    return Accounts(list(entries.values()), charged, {one.id: one.dph_total_usd for one in contracts}, len(added))


def summary(accounts: Accounts, month: Month, now: float, budget: float | None, ledger: Path) -> Outcome:
    """Return the answer."""
    here = [one for one in accounts.entries if one.since < month.until and (one.until or now) >= month.since]
    days, so_far_usd = cost_by_day(spans(accounts.entries, now), month), month_to_date(accounts.entries, month, now)
    hourly = hourly_usd(accounts.entries, accounts.prices)
    total: dict[Use, float] = {use: sum(day.get(use, 0.0) for day in days.values()) for use in USES}
    rows = [_row(day, uses) for day, uses in days.items()]
    forecast, warning = forecast_usd(so_far_usd, hourly), over_budget(budget, so_far_usd, hourly)
    name = f"{datetime.fromtimestamp(month.since, UTC):%Y-%m}"
    parts = [
        report.table(("day", *USES, "together"), [*rows, _row(name, total)]) if rows else "Nothing was rented.",
        f"Now {report.usd(hourly)}/h; {name} will have cost {report.usd(forecast, digits=2)}.",
        report.bullets("Warnings", [warning] if warning else []),
        _compared(accounts, here, now),
        f"The ledger is {report.code(ledger)}"
        + (f"; {report.count(accounts.added, 'event')} that it lacked were added." if accounts.added else "."),
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
        "charged_usd": {one.instance_id: accounts.charges[one.instance_id].amount_usd for one in here
                        if one.instance_id in accounts.charges},
        "unread": accounts.unread,
        "contracts": [asdict(one) | {"cost_usd": cost_usd(one, now)} for one in here],
    }  # fmt: skip
    notices = [Notice("budget", warning, name)] if warning else []
    return Outcome(OK, f"{report.usd(so_far_usd.spent_usd, digits=2)} in {name}", parts, facts, notices)


def _row(name: str, uses: Mapping[Use, float]) -> tuple[str, ...]:
    cells = (report.usd(uses[use]) if uses.get(use) else "-" for use in USES)
    return (name, *cells, report.usd(sum(uses.values())))


def _compared(accounts: Accounts, here: Sequence[Entry], now: float) -> str:
    """Return the difference to Vast.ai's charges, and the contracts of which it is more than a cent."""
    if accounts.unread:
        return f"Not compared with Vast.ai's charges: {report.safe(accounts.unread)}"
    charged = {one: accounts.charges[one.instance_id].amount_usd for one in here if one.instance_id in accounts.charges}
    off = {one: usd - cost_usd(one, now) for one, usd in charged.items()}
    shown = [
        f"instance {one.instance_id}: {usd:+.4f} to {report.usd(cost_usd(one, now))}"
        for one, usd in off.items()
        if abs(usd) >= SHOWN_USD
    ]
    text = (
        f"Vast.ai has charged {report.usd(sum(charged.values()))} for {report.count(len(off), 'contract')} of this "
        f"month, from rent to end: {sum(off.values()):+.4f} to the ledger."
    )
    without = len(here) - len(off)
    none = f"It shows no charge of {report.count(without, 'contract')}." if without else ""
    return "\n\n".join(filter(None, [text, none, report.bullets("Charged otherwise", shown)]))


def _base(pulumi: Pulumi) -> str:
    return f"{pulumi.project}/{pulumi.name.rpartition('/')[2]}"
