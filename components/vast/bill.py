"""What the contracts of a ledger cost: by day and by what it was for; what a month will have cost. Pure.

Reckoned at the price of the rent, from the rent to the end, and the download once; Vast.ai's own bill has no GPU in the
minutes before the container runs, and has the traffic.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from components.vast.ledger import Entry

# drain: of one that was replaced, from when the other one served. boot: of one that came to serve, or still boots.
Use = Literal["serving", "boot", "boot failed", "hedge", "drain"]
USES: tuple[Use, ...] = ("serving", "boot", "boot failed", "hedge", "drain")


@dataclass(frozen=True)
class MonthToDate:
    """What a month has cost, and how many of its hours are left."""

    spent_usd: float
    hours_left: float


@dataclass(frozen=True)
class Span:
    """A part of a contract's time, in seconds since the epoch; `once_usd` is paid at its start."""

    use: Use
    entry: Entry
    start: float
    end: float
    once_usd: float = 0.0

    def usd(self, since: float, until: float) -> float:
        """Return what of it falls between two times."""
        seconds = max(min(self.end, until) - max(self.start, since), 0.0)
        once = self.once_usd if since <= self.start < until else 0.0
        return seconds / 3600.0 * self.entry.dph_usd + once


@dataclass(frozen=True)
class Month:
    """A month of the calendar, UTC: from the first second to that of the next one."""

    since: float
    until: float

    @classmethod
    def of(cls, day: datetime) -> Month:
        first = datetime(day.year, day.month, 1, tzinfo=UTC)
        following = (first + timedelta(days=31)).replace(day=1)
        return cls(first.timestamp(), following.timestamp())

    def days(self) -> Iterator[tuple[str, float, float]]:
        """Give each day's date, begin and end."""
        for at in range(int(self.since), int(self.until), 86400):
            yield f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}", at, at + 86400


def spans(entries: Iterable[Entry], now: float) -> list[Span]:
    """Return what each contract's time was for."""
    found, every = [], list(entries)
    began: dict[str, list[float]] = {}  # by name: when each server of a replica began to serve
    for at, name in sorted((one.serving_at, one.name) for one in every if one.serving_at is not None):
        began.setdefault(name, []).append(at)
    for one in every:
        end = now if one.until is None else one.until
        if one.serving_at is None:
            use: Use = "hedge" if one.reason == "hedge" else "boot" if one.until is None else "boot failed"
            found.append(Span(use, one, one.since, end, one.pull_usd))
            continue
        serving_at = min(max(one.serving_at, one.since), end)
        later = began[one.name][bisect_right(began[one.name], serving_at) :][:1]
        drain_at = min([*later, end])
        found.append(Span("boot", one, one.since, serving_at, one.pull_usd))
        found.append(Span("serving", one, serving_at, drain_at))
        found.append(Span("drain", one, drain_at, end))
    return found


def cost_by_day(parts: Iterable[Span], month: Month) -> dict[str, dict[Use, float]]:
    """Return dollars by day and use, of the days that cost something."""
    found: dict[str, dict[Use, float]] = {}
    every = list(parts)
    for name, since, until in month.days():
        for part in every:
            if (usd := part.usd(since, until)) > 0:
                day = found.setdefault(name, {})
                day[part.use] = day.get(part.use, 0.0) + usd
    return found


def cost_usd(entry: Entry, now: float) -> float:
    """Return what a contract has cost so far."""
    return sum(part.usd(0.0, now + 1.0) for part in spans([entry], now))


def month_to_date(entries: Iterable[Entry], month: Month, now: float) -> MonthToDate:
    """Return what a month has cost up to now."""
    spent_usd = sum(part.usd(month.since, month.until) for part in spans(entries, now))
    return MonthToDate(spent_usd, max(month.until - max(now, month.since), 0.0) / 3600.0)


def hourly_usd(entries: Iterable[Entry], prices: Mapping[int, float]) -> float:
    """Return what runs now per hour: at the present price of an instance where that is known."""
    return sum(prices.get(one.instance_id, one.dph_usd) for one in entries if one.until is None)


def forecast_usd(month: MonthToDate, hourly_usd: float) -> float:
    """Return what a month will have cost if what runs now runs on."""
    return month.spent_usd + hourly_usd * month.hours_left


def growth_usd_h(budget_usd: float, month: MonthToDate, hourly_usd: float) -> float:
    """Return by how many dollars per hour what runs may grow, so that the month costs no more than its budget."""
    return (budget_usd - forecast_usd(month, hourly_usd)) / max(month.hours_left, 1e-9)


def over_budget(budget_usd: float | None, month: MonthToDate, hourly_usd: float) -> str:
    """Return a warning where the month will have cost more than its budget, or ""."""
    forecast = forecast_usd(month, hourly_usd)
    if budget_usd is None or forecast <= budget_usd:
        return ""
    return (
        f"the month will have cost ${forecast:.2f} (${month.spent_usd:.2f} so far, ${hourly_usd:.4f}/h), over "
        f"budget_usd_month of ${budget_usd:g}"
    )
