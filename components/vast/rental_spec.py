"""Input and result of a rental, as records: the order, a bid, the rented instance, the rejected machines."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.vast.label import Label
from components.vast.models import Contract, Offer
from components.vast.ranking import Candidate
from components.vast.spec import Deadlines, Spec


@dataclass(frozen=True)
class Rejected:
    """A machine that was tried, or an offer that was lost, and why."""

    machine_id: int
    offer_id: int
    reason: str
    after_s: float


@dataclass(frozen=True)
class Rented:
    """What serves now, and what it took."""

    contract: Contract
    ip: str
    port: int
    candidate: Candidate | None
    adopted: bool
    ready_s: float
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Order:
    """What to rent and how long to try."""

    spec: Spec
    label: Label
    container_port: int
    deadlines: Deadlines = field(default_factory=Deadlines)
    max_tries: int = 5
    poll_s: float = 5.0
    resolve_s: float = 20.0
    bid: Bid | None = None
    hedge: int = 1
    adopt_instance_id: int | None = None
    spec_fault_logs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bid:
    """What to offer for an interruptible instance: a price, or the floor times `factor`; never over `cap_usd`."""

    price_usd: float | None = None
    factor: float = 1.25
    cap_usd: float | None = None

    def on(self, offer: Offer) -> float:
        price = offer.min_bid_usd * self.factor if self.price_usd is None else self.price_usd
        return round(price if self.cap_usd is None else min(price, self.cap_usd), 5)
