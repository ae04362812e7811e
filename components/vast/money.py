"""Checks of budget and credit before anything is rented, and costs as Vast.ai bills them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.errors import RentalFailed
from components.vast.bill import MonthToDate, over_budget
from components.vast.label import Label
from components.vast.models import HOURS_PER_MONTH, Account, Contract
from components.vast.ranking import Candidate, minutes

BILLING = "https://cloud.vast.ai/billing/"


@dataclass(frozen=True)
class Budget:
    """What the stack may cost per hour in all (None for no cap), how many hours the credit should last, and what a
    month should cost (None for no bound); over that is a warning."""

    max_hourly_usd: float | None = None
    min_runway_h: float = 0.0
    budget_usd_month: float | None = None

    def over(self, hourly_usd: float, count: int) -> str | None:
        """Return why `count` machines at this price are too much, or None."""
        total = hourly_usd * count
        if self.max_hourly_usd is None or total <= self.max_hourly_usd:
            return None
        of = f"{count} machines at ${hourly_usd:.4f}/h cost ${total:.4f}/h" if count > 1 else f"${total:.4f}/h"
        return f"max_hourly_usd allows ${self.max_hourly_usd:g}/h, but {of}"

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
        """Return a warning when the credit lasts less than `min_runway_h` for all `replicas`, or the month will have
        cost more than its budget; or None.

        `others_usd`: what else the account pays per hour. `month`: what the stack has cost in it so far.

        Raises RentalFailed when the price is over the cap, or the credit does not even last until they serve; until
        then each replica may rent `hedge` machines.
        """
        hourly, count = candidate.offer.dph_total_usd, hedge * replicas
        if over := self.over(hourly, count):
            raise RentalFailed(f"{over}; nothing was rented")
        boot = count * (candidate.pull_cost_usd + hourly * candidate.ready_s / 3600.0)
        if account.credit_usd < boot:
            raise RentalFailed(
                f"the credit is ${account.credit_usd:.2f}, but until it serves {candidate} costs about ${boot:.2f}; "
                f"nothing was rented; add credit at {BILLING}"
            )
        total = hourly * replicas + others_usd
        hours = (account.credit_usd - boot) / max(total, 1e-6)
        warning = over_budget(self.budget_usd_month, month, hourly * replicas) if month else ""
        if hours < self.min_runway_h:
            left = minutes(hours * 3600.0)
            also = f", of which ${others_usd:.4f} for what else the account rents" if others_usd else ""
            lasts = f"the credit of ${account.credit_usd:.2f} lasts for {left} at ${total:.4f}/h{also}"
            warning = "; ".join([*filter(None, [warning]), lasts, f"add credit at {BILLING}"])
        return warning or None


def others_hourly_usd(contracts: Iterable[Contract], owner: str) -> float:
    """Return what the account pays per hour for what is not of the state with this owner."""
    labels = ((one, Label.parse(one.label)) for one in contracts)
    return sum(one.dph_total_usd for one, label in labels if label is None or label.owner != owner)


def hourly_cost(contract: Contract, disk_gb: float) -> dict[str, float]:
    """Return dollars per hour for a contract: gpu, disk, total."""
    total = contract.dph_total_usd
    disk = min(contract.storage_cost_usd_gb_month * disk_gb / HOURS_PER_MONTH, total)
    return {"gpu": round(total - disk, 5), "disk": round(disk, 5), "total": round(total, 5)}


def monthly_cost(hourly: dict[str, float]) -> float:
    """Return dollars per month of HOURS_PER_MONTH, bandwidth apart."""
    return round(hourly["total"] * HOURS_PER_MONTH, 2)


def bandwidth_cost(contract: Contract) -> dict[str, float]:
    """Return dollars per GB, down to the instance and up from it; billed per byte besides the hourly price."""
    return {"down": round(contract.inet_down_cost_usd_gb, 5), "up": round(contract.inet_up_cost_usd_gb, 5)}
