"""Why no offer fits: what each condition removes alone, and the nearest miss. Called when a search comes back empty."""

from __future__ import annotations

from collections.abc import Sequence

from components.vast.models import Offer
from components.vast.query import Filters, breaks, describe


def why_none(filters: Filters, market: Sequence[Offer], *, now: float, capped: bool = False) -> str:
    """Return one or two sentences: how many were looked at, which conditions remove how many, who came nearest.

    `market` are offers found without the user's conditions; `capped` says that there were more than were read.
    """
    conditions = [(field, op, want) for field, ops in filters.items() for op, want in ops.items()]
    misses = []
    for offer in market:
        broken = [condition for condition in conditions if breaks(*condition, offer.raw, now=now)]
        misses.append((len(broken), offer.dph_total_usd, offer, broken))
    total = f"{len(market)}{'+' if capped else ''}"
    if not misses:
        return "0 offers are on the market at all; try again in a few minutes"
    alone = []
    for condition in conditions:
        removed = [offer for count, _, offer, broken in misses if count == 1 and broken == [condition]]
        if removed:
            cheapest = min(offer.dph_total_usd for offer in removed)
            alone.append(f"{describe(*condition)} alone removes {len(removed)} (the cheapest at ${cheapest:.3f}/h)")
    count, price, nearest, broken = min(misses, key=lambda miss: (miss[0], miss[1]))
    words = "; ".join(f"{describe(*condition)}" for condition in broken)
    near = (
        f"nearest miss: {nearest.gpu_name} on machine {nearest.machine_id}, {nearest.place}, ${price:.3f}/h, "
        f"fails {words}"
        if count
        else "offers fit but went away while they were counted; try again"
    )
    return "; ".join([f"0 of {total} offers fit", *alone, near])
