"""The ledger of a stack: events of what was rented, folded into contracts, and held against what Vast.ai says. Pure.

Written by `rental` and the Instance resource as things happen, and by `ops cost`, which adds what a killed run could
not write. `components.ledger_file` keeps the events; `bill` says what they cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from components.vast.label import Label, parse_nonce
from components.vast.models import Charge, Contract
from components.vast.ranking import Candidate

# intent: before the rent call. rent: there is a contract. serving: it serves and stays. end: it is destroyed, or gone.
Kind = Literal["intent", "rent", "serving", "end"]
Reason = Literal["", "boot failed", "hedge", "killed run", "destroyed", "gone"]
NEW_S = 120.0  # an up that runs now may not have written yet what is younger, nor the API's list have it


@dataclass(frozen=True)
class Event:
    """What happened to a contract; `at` and `since` in seconds since the epoch. What is not known is left empty.

    `nonce`: of the label, which tells whose intent a contract comes from. `since`: when the contract began, where
    Vast.ai says so. `pull_usd`: the download, once.
    """

    kind: Kind
    at: float = 0.0
    name: str = ""
    nonce: str = ""
    instance_id: int = 0
    machine_id: int = 0
    gpu: str = ""
    dph_usd: float = 0.0
    pull_usd: float | None = None
    since: float = 0.0
    reason: Reason = ""
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """One contract: from when to when (None: it still runs), since when it served (None: never), and why it ended."""

    instance_id: int
    since: float
    name: str = ""
    nonce: str = ""
    machine_id: int = 0
    gpu: str = ""
    dph_usd: float = 0.0
    pull_usd: float = 0.0
    serving_at: float | None = None
    until: float | None = None
    reason: Reason = ""
    text: str = ""


def intent(label: Label, candidate: Candidate, bid_usd: float | None) -> Event:
    """Return what is written before an offer is rented, so that a run that is killed then is known."""
    offer = candidate.offer
    dph_usd = offer.dph_total_usd + (bid_usd - offer.min_bid_usd if bid_usd else 0.0)  # an offer's total has the floor
    return Event(
        "intent",
        name=label.base,
        nonce=label.nonce,
        machine_id=offer.machine_id,
        gpu=offer.gpu_name,
        dph_usd=round(dph_usd, 6),
        pull_usd=round(candidate.pull_cost_usd, 5),
    )


def rent_event(contract: Contract) -> Event:
    """Return a contract that exists as an event: it may be known already, or be one of a killed run."""
    label = Label.parse(contract.label)
    return Event(
        "rent",
        name=label.base if label else "",
        nonce=label.nonce if label else "",
        instance_id=contract.id,
        machine_id=contract.machine_id,
        gpu=contract.gpu_name,
        dph_usd=contract.dph_total_usd,
        since=contract.start_date,
    )


def fold(events: Iterable[Event]) -> dict[int, Entry]:
    """Return the contracts by id. An intent of which no contract is known is none; the first end counts, as a list may
    still show for moments what was destroyed."""
    intents: dict[str, Event] = {}
    entries: dict[int, Entry] = {}
    for one in events:
        if one.kind == "intent":
            intents[one.nonce] = one
            continue
        entry = entries.get(one.instance_id) or Entry(one.instance_id, one.at)
        for source in (intents.get(one.nonce or entry.nonce), one):
            entry = _with_facts(entry, source) if source else entry
        if one.kind == "serving":
            entry = replace(entry, serving_at=entry.serving_at or one.at)
        elif one.kind == "rent" and entry.until is not None and one.at - entry.until > NEW_S:
            entry = replace(entry, until=None, reason="", text="")  # it was taken for gone
        elif one.kind == "end" and entry.until is None:
            entry = replace(entry, until=max(one.at, entry.since), reason=one.reason, text=one.text)
        entries[one.instance_id] = entry
    return entries


def _with_facts(entry: Entry, event: Event) -> Entry:
    """Return an entry with what an event knows of it: the first word counts, but for when it began and the price."""
    return replace(
        entry,
        since=event.since or entry.since,
        name=entry.name or event.name,
        nonce=entry.nonce or event.nonce,
        machine_id=entry.machine_id or event.machine_id,
        gpu=entry.gpu or event.gpu,
        dph_usd=entry.dph_usd or event.dph_usd,
        pull_usd=entry.pull_usd if event.pull_usd is None else event.pull_usd,
    )


def missing_events(
    entries: Mapping[int, Entry],
    contracts: Iterable[Contract],
    charges: Iterable[Charge],
    stack: str,
    now: float,
    *,
    new_s: float = NEW_S,
) -> list[Event]:
    """Return the events that the ledger of a stack ("project/name") lacks, by what the account has and was charged.

    So what a killed run rented comes in, and the end of what ended while nobody looked; a lost ledger is made anew.
    `new_s`: what is younger is left alone, since whoever made it may be about to write it.
    """
    live = {one.id: one for one in contracts}
    charged = {one.instance_id: one for one in charges}
    found = []
    for contract in live.values():
        entry, label = entries.get(contract.id), Label.parse(contract.label)
        if entry is None and label and label.base.startswith(f"{stack}/") and now - contract.start_date > new_s:
            found.append(rent_event(contract))
            if not label.pending:
                found.append(Event("serving", contract.start_date, instance_id=contract.id))
        elif entry and entry.until is not None and now - entry.until > new_s:
            found.append(rent_event(contract))
    for charge in charged.values():
        label = Label.parse(charge.label)
        if charge.instance_id in entries or charge.instance_id in live or not label:
            continue
        if label.base.startswith(f"{stack}/") and now - charge.end > new_s:
            found += _of_charge(charge, label)
    for entry in entries.values():
        if entry.until is None and entry.instance_id not in live and now - entry.since > new_s:
            bill = charged.get(entry.instance_id)
            reason: Reason = "killed run" if entry.serving_at is None else "gone"
            found.append(Event("end", bill.end if bill else now, instance_id=entry.instance_id, reason=reason))
    return [replace(one, at=one.at or now) for one in found]


def _of_charge(charge: Charge, label: Label) -> list[Event]:
    """Return a contract of which nothing but its charge is left; its amount is all that is known of its price."""
    hours = max(charge.end - charge.start, 1.0) / 3600.0
    begun = Event(
        "rent",
        charge.start,
        name=label.base,
        nonce=parse_nonce(charge.label),
        instance_id=charge.instance_id,
        dph_usd=round(charge.amount_usd / hours, 6),
        since=charge.start,
    )
    served = [] if label.pending else [Event("serving", charge.start, instance_id=charge.instance_id)]
    reason: Reason = "killed run" if label.pending else "gone"
    return [begun, *served, Event("end", charge.end, instance_id=charge.instance_id, reason=reason)]
