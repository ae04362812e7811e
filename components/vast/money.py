"""Checks of budget and credit before a rent, and costs as Vast.ai bills them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.errors import RentalFailed
from components.vast.bill import MonthToDate, over_budget
from components.vast.label import Label
from components.vast.models import HOURS_PER_MONTH, Account, Contract
from components.vast.ranking import Candidate, minutes

BILLING_URL = "https://cloud.vast.ai/billing/"


@dataclass(frozen=True)
class Budget:
    """Limits of a stack's cost. `max_hourly_usd`: a hard cap. `min_runway_h` (hours that the credit lasts) and
    `budget_usd_month`: a warning if missed. No limit: None, or 0 for `min_runway_h`."""

    max_hourly_usd: float | None = None
    min_runway_h: float = 0.0
    budget_usd_month: float | None = None

    def over(self, hourly_usd: float, count: int) -> str | None:
        """Return why `count` machines at this price exceed the cap, or None."""
        total = hourly_usd * count
        if self.max_hourly_usd is None or total <= self.max_hourly_usd:
            return None
        cost = f"{count} machines at ${hourly_usd:.4f}/h cost ${total:.4f}/h" if count > 1 else f"${total:.4f}/h"
        return f"max_hourly_usd allows ${self.max_hourly_usd:g}/h, but {cost}"

    def check(
        self,
        account: Account,
        candidate: Candidate,
        replicas: int,
        *,
        hedge: int = 1,
        others_usd: float = 0.0,
        month: MonthToDate | None = None,
    ) -> str | None:
        """Return a warning if the credit does not last `min_runway_h` for all `replicas`, or the forecast of the month
        exceeds its budget; None if both are fine.

        `others_usd`: the account's other costs per hour. `month`: the stack's cost so far.

        Raises RentalFailed if the price exceeds the cap, or the credit does not last until the replicas serve. While
        they boot, each replica may rent `hedge` machines.
        """
        hourly, count = candidate.offer.dph_total_usd, hedge * replicas
        if over := self.over(hourly, count):
            raise RentalFailed(f"{over}; nothing was rented")
        boot = count * (candidate.pull_cost_usd + hourly * candidate.ready_s / 3600.0)
        if account.credit_usd < boot:
            raise RentalFailed(
                f"the credit is ${account.credit_usd:.2f}, but until it serves {candidate} costs about ${boot:.2f}; "
                f"nothing was rented; add credit at {BILLING_URL}"
            )
        total = hourly * replicas + others_usd
        hours = (account.credit_usd - boot) / max(total, 1e-6)
        warning = over_budget(self.budget_usd_month, month, hourly * replicas) if month else ""
        if hours < self.min_runway_h:
            others = f", of which ${others_usd:.4f} for other instances of the account" if others_usd else ""
            runway = f"{minutes(hours * 3600.0)} at ${total:.4f}/h{others}"
            lasts = f"the credit of ${account.credit_usd:.2f} lasts for {runway}"
            warning = "; ".join([*filter(None, [warning]), lasts, f"add credit at {BILLING_URL}"])
        return warning or None


def others_hourly_usd(contracts: Iterable[Contract], owner: str) -> float:
    """Return the hourly cost of the account's contracts that are not of the state with this owner."""
    labels = ((contract, Label.parse(contract.label)) for contract in contracts)
    return sum(contract.dph_total_usd for contract, label in labels if label is None or label.owner != owner)


def hourly_cost(contract: Contract, disk_gb: float) -> dict[str, float]:
    """Return the dollars per hour of a contract: gpu, disk, total."""
    total = contract.dph_total_usd
    disk = min(contract.storage_cost_usd_gb_month * disk_gb / HOURS_PER_MONTH, total)
    return {"gpu": round(total - disk, 5), "disk": round(disk, 5), "total": round(total, 5)}


def monthly_cost(hourly: dict[str, float]) -> float:
    """Return dollars per month of HOURS_PER_MONTH, without bandwidth."""
    return round(hourly["total"] * HOURS_PER_MONTH, 2)


def bandwidth_cost(contract: Contract) -> dict[str, float]:
    """Return dollars per GB of download and upload, billed in addition to the hourly price."""
    return {"down": round(contract.inet_down_cost_usd_gb, 5), "up": round(contract.inet_up_cost_usd_gb, 5)}
