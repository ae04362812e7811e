"""Ledger of a stack: events of its rents, folded into contracts, and compared with the account. Pure.

`rental` and the Instance resource write the events; `ops cost` adds those that a killed run did not write.
`components.stack_ledger` stores the events; `bill` computes their cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from components.vast.label import Label
from components.vast.models import Charge, Contract
from components.vast.ranking import Candidate

# intent: before the rent call. rent: the contract exists. serving: it serves and is kept. end: it is destroyed or gone.
Kind = Literal["intent", "rent", "serving", "end"]
Reason = Literal["", "boot failed", "hedge", "killed run", "destroyed", "gone"]
NEW_S = 120.0  # younger events may still be missing in the ledger or in the API's list


@dataclass(frozen=True)
class Event:
    """A change of a contract; `at` and `since` in seconds since the epoch. Unknown values are empty.

    `nonce`: of the label; it links a contract to its intent. `since`: start of the contract according to Vast.ai.
    `pull_usd`: the one-off cost of the download.
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
    """One contract from `since` to `until` (None: still running). `serving_at`: None if it never served."""

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
    """Return the event that is written before a rent, in case the run is killed during the rent call."""
    offer = candidate.offer
    dph_usd = offer.dph_total_usd + (bid_usd - offer.min_bid_usd if bid_usd else 0.0)  # the total includes min_bid
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
    """Return the rent event of an existing contract. The ledger may already have one."""
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
    """Return the contracts by id. An intent without a contract is left out. The first end counts, as the API's list may
    still contain a destroyed instance for a short time."""
    intents: dict[str, Event] = {}
    entries: dict[int, Entry] = {}
    for event in events:
        if event.kind == "intent":
            intents[event.nonce] = event
            continue
        entry = entries.get(event.instance_id) or Entry(event.instance_id, event.at)
        for source in (intents.get(event.nonce or entry.nonce), event):
            entry = _merge(entry, source) if source else entry
        if event.kind == "serving":
            entry = replace(entry, serving_at=entry.serving_at or event.at)
        elif event.kind == "rent" and entry.until is not None and event.at - entry.until > NEW_S:
            entry = replace(entry, until=None, reason="", text="")  # the recorded end was wrong
        elif event.kind == "end" and entry.until is None:
            entry = replace(entry, until=max(event.at, entry.since), reason=event.reason, text=event.text)
        entries[event.instance_id] = entry
    return entries


def _merge(entry: Entry, event: Event) -> Entry:
    """Add the values of an event to an entry. Existing values stay, except `since` and `pull_usd`."""
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
    """Return the events that are missing in the ledger of a stack ("project/name"), from the account's contracts and
    charges: rents of a killed run, and ends that no run recorded. A lost ledger is rebuilt this way.

    `new_s`: younger contracts are ignored, because a running `up` may still write their events.
    """
    live = {contract.id: contract for contract in contracts}
    charges_by_id = {charge.instance_id: charge for charge in charges}
    events = []
    for contract in live.values():
        entry, label = entries.get(contract.id), Label.parse(contract.label)
        if entry is None and label and label.base.startswith(f"{stack}/") and now - contract.start_date > new_s:
            events.append(rent_event(contract))
            if not label.pending:
                events.append(Event("serving", contract.start_date, instance_id=contract.id))
        elif entry and entry.until is not None and now - entry.until > new_s:
            events.append(rent_event(contract))
    for charge in charges_by_id.values():
        label = Label.parse(charge.label)
        if charge.instance_id in entries or charge.instance_id in live or not label:
            continue
        if label.base.startswith(f"{stack}/") and now - charge.end > new_s:
            events += _charge_events(charge, label)
    for entry in entries.values():
        if entry.until is None and entry.instance_id not in live and now - entry.since > new_s:
            bill = charges_by_id.get(entry.instance_id)
            reason: Reason = "killed run" if entry.serving_at is None else "gone"
            events.append(Event("end", bill.end if bill else now, instance_id=entry.instance_id, reason=reason))
    return [replace(event, at=event.at or now) for event in events]


def _charge_events(charge: Charge, label: Label) -> list[Event]:
    """Return the events of a contract that is known only from its charge; the price is the mean of the charge."""
    hours = max(charge.end - charge.start, 1.0) / 3600.0
    rent = Event(
        "rent",
        charge.start,
        name=label.base,
        nonce=label.nonce,
        instance_id=charge.instance_id,
        dph_usd=round(charge.amount_usd / hours, 6),
        since=charge.start,
    )
    serving = [] if label.pending else [Event("serving", charge.start, instance_id=charge.instance_id)]
    reason: Reason = "killed run" if label.pending else "gone"
    return [rent, *serving, Event("end", charge.end, instance_id=charge.instance_id, reason=reason)]
