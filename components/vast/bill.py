"""Cost of the contracts in a ledger: by day and by use, and the forecast of a month. Pure.

Computed from the price at the rent, from the rent to the end, plus the download once. Vast.ai's own bill differs: it
charges no GPU before the container runs, and it includes traffic.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from components.vast.ledger import Entry

# boot: of an instance that later served, or that still boots. drain: from the time its replacement served.
Use = Literal["serving", "boot", "boot failed", "hedge", "drain"]
USES: tuple[Use, ...] = ("serving", "boot", "boot failed", "hedge", "drain")


@dataclass(frozen=True)
class MonthToDate:
    """The cost of a month so far, and its remaining hours."""

    spent_usd: float
    hours_left: float


@dataclass(frozen=True)
class Span:
    """One use of a contract, from `start` to `end` in seconds since the epoch; `once_usd` is charged at `start`."""

    use: Use
    entry: Entry
    start: float
    end: float
    once_usd: float = 0.0

    def usd(self, since: float, until: float) -> float:
        """Return the cost between two times."""
        seconds = max(min(self.end, until) - max(self.start, since), 0.0)
        once = self.once_usd if since <= self.start < until else 0.0
        return seconds / 3600.0 * self.entry.dph_usd + once


@dataclass(frozen=True)
class Month:
    """A calendar month in UTC, from its first second to the first second of the next month."""

    since: float
    until: float

    @classmethod
    def of(cls, day: datetime) -> Month:
        first = datetime(day.year, day.month, 1, tzinfo=UTC)
        return cls(first.timestamp(), (first + timedelta(days=31)).replace(day=1).timestamp())

    def days(self) -> Iterator[tuple[str, float, float]]:
        """Yield the date, start and end of each day."""
        for start in range(int(self.since), int(self.until), 86400):
            yield f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}", start, start + 86400


def spans(entries: Iterable[Entry], now: float) -> list[Span]:
    """Split the time of each contract by use."""
    result, entries = [], list(entries)
    serving_starts: dict[str, list[float]] = {}  # by name of the replica, in order of time
    for at, name in sorted((entry.serving_at, entry.name) for entry in entries if entry.serving_at is not None):
        serving_starts.setdefault(name, []).append(at)
    for entry in entries:
        end = now if entry.until is None else entry.until
        if entry.serving_at is None:
            use: Use = "hedge" if entry.reason == "hedge" else "boot" if entry.until is None else "boot failed"
            result.append(Span(use, entry, entry.since, end, entry.pull_usd))
            continue
        serving_at = min(max(entry.serving_at, entry.since), end)
        starts = serving_starts[entry.name]
        drain_at = min([*starts[bisect_right(starts, serving_at) :][:1], end])
        result.append(Span("boot", entry, entry.since, serving_at, entry.pull_usd))
        result.append(Span("serving", entry, serving_at, drain_at))
        result.append(Span("drain", entry, drain_at, end))
    return result


def cost_by_day(parts: Iterable[Span], month: Month) -> dict[str, dict[Use, float]]:
    """Return dollars by day and use. Days without cost are left out."""
    costs: dict[str, dict[Use, float]] = {}
    parts = list(parts)
    for date, since, until in month.days():
        for part in parts:
            if (usd := part.usd(since, until)) > 0:
                day = costs.setdefault(date, {})
                day[part.use] = day.get(part.use, 0.0) + usd
    return costs


def cost_usd(entry: Entry, now: float) -> float:
    """Return the cost of a contract so far."""
    return sum(part.usd(0.0, now + 1.0) for part in spans([entry], now))


def month_to_date(entries: Iterable[Entry], month: Month, now: float) -> MonthToDate:
    spent_usd = sum(part.usd(month.since, month.until) for part in spans(entries, now))
    return MonthToDate(spent_usd, max(month.until - max(now, month.since), 0.0) / 3600.0)


def hourly_usd(entries: Iterable[Entry], prices: Mapping[int, float]) -> float:
    """Return the hourly cost of the running contracts. `prices`: current $/h by instance id, where known."""
    return sum(prices.get(entry.instance_id, entry.dph_usd) for entry in entries if entry.until is None)


def forecast_usd(month: MonthToDate, hourly_usd: float) -> float:
    """Return the cost of the whole month if the current hourly cost stays."""
    return month.spent_usd + hourly_usd * month.hours_left


def growth_usd_h(budget_usd: float, month: MonthToDate, hourly_usd: float) -> float:
    """Return the increase in $/h that the month's budget still allows; negative if the forecast exceeds the budget."""
    return (budget_usd - forecast_usd(month, hourly_usd)) / max(month.hours_left, 1e-9)


def over_budget(budget_usd: float | None, month: MonthToDate, hourly_usd: float) -> str:
    """Return a warning if the forecast of the month exceeds its budget, or ""."""
    forecast = forecast_usd(month, hourly_usd)
    if budget_usd is None or forecast <= budget_usd:
        return ""
    return (
        f"the month will have cost ${forecast:.2f} (${month.spent_usd:.2f} so far, ${hourly_usd:.4f}/h), over "
        f"budget_usd_month of ${budget_usd:g}"
    )
