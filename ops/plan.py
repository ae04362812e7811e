"""A plan, read from the events of a preview: steps and why, drift, offers, price, what policies say. Pure.

Called by the preview, drift and heal commands. Events: apitype.EngineEvent of pulumi/sdk. Values that are secret come
as "[secret]"; values that are not known yet come as one fixed text, `UNKNOWN`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.run import Run

Json = Any
INSTANCE = "vast:Instance"
OFFERS = "vast:OfferQuery"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # plugin.UnknownStringValue of pulumi/sdk
STEPS = ("create", "update", "replace", "delete")
# Inputs that follow the market or the instance itself: they never make a change of their own.
FOLLOWS = frozenset(
    {"__provider", "candidates", "searched_at", "owner", "servers", "url", "instance_id", "ip", "port", "upstreams"}
)
SHOWN_CHARS = 60
REPLACED = "will be replaced: "
GONE = " is gone: "
_CHOICE = re.compile(
    r"first choice: offer (?P<offer_id>\d+): (?P<gpu>.+?) on machine (?P<machine_id>\d+), (?P<place>.*?), "
    r"\$(?P<dph>[\d.]+)/h, pull once \$(?P<pull>[\d.]+), ready in about (?P<ready>[^;]+)"
)
_BID = re.compile(r"; bid \$([\d.]+)/h")


@dataclass(frozen=True)
class Choice:
    """The offer that would be rented: Vast.ai's ids, dollars per hour, dollars for the download, time to ready.

    Of an interruptible one the price is the bid, without its disk.
    """

    offer_id: int
    machine_id: int
    gpu: str
    place: str
    dph_total_usd: float
    pull_cost_usd: float
    ready_in: str

    @classmethod
    def parse(cls, text: str) -> Choice | None:
        """Read the message of the Instance resource; None if it is another one."""
        found = _CHOICE.search(text)
        if found is None:
            return None
        return cls(
            offer_id=int(found["offer_id"]),
            machine_id=int(found["machine_id"]),
            gpu=found["gpu"],
            place=found["place"],
            dph_total_usd=float(bid[1] if (bid := _BID.search(text)) else found["dph"]),
            pull_cost_usd=float(found["pull"]),
            ready_in=found["ready"].strip(),
        )


@dataclass(frozen=True)
class Step:
    """One resource that would change, and why: changed inputs, drift, or what it follows."""

    op: str
    type: str
    name: str
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What an `up` would do."""

    steps: list[Step]
    drift: list[str]  # "kind: reason" of each instance that is not what was declared
    pending: list[str]  # changes of the program or its config that are not deployed
    choices: list[Choice]
    offers: list[Mapping[str, Json]]  # records of the candidates, best first, where a search was made
    renting: int  # how many instances this plan rents
    warnings: list[str]
    policies: list[str]

    @property
    def in_sync(self) -> bool:
        """Whether nothing is to be done."""
        return not self.steps

    def counts(self) -> dict[str, int]:
        """Return how many steps there are of each kind."""
        return {op: count for op in STEPS if (count := sum(step.op == op for step in self.steps))}


def read(run: Run) -> Plan:
    """Return the plan that a preview's events describe."""
    before = _inputs_before(run.events)
    replaced = _why_replaced(run.events)
    steps, pending, offers = [], [], []
    renting = 0
    for meta in _steps(run.events):
        urn, op = str(meta["urn"]), str(meta["op"])
        kind, name = str(meta["type"]).rpartition("/")[2], urn.rpartition("::")[2]
        new = (meta.get("new") or {}).get("inputs") or {}
        known = urn in before
        changed = _changed(before.get(urn, {}), new) if known and op != "delete" else []
        keys = [key for key in meta.get("keys") or [] if key not in FOLLOWS and key != "drift"]
        own = _own(op, known, changed, keys)
        pending += [f"{name}: {one}" for one in own]
        said = [one for one in replaced.get(urn, []) if not _told(one, own)]
        steps.append(Step(op, kind, name, list(dict.fromkeys([*said, *own])) or _follows(op, kind, known)))
        if kind == INSTANCE and op in ("create", "replace"):
            renting += 1
        if kind == OFFERS and op in ("create", "update", "replace"):
            offers += [one for one in new.get("candidates") or [] if isinstance(one, Mapping)]
    infos = run.diagnostics("info")
    choices = [choice for text in infos if (choice := Choice.parse(text))]
    return Plan(
        steps=steps,
        drift=_drifts(run),
        pending=pending,
        choices=choices[-renting:] if renting else [],
        offers=offers,
        renting=renting,
        warnings=[*(one for one in run.diagnostics("warning") if not one.startswith(REPLACED)), *run.advice()],
        policies=run.policies(),
    )


def _steps(events: Iterable[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """Return the metadata of each logical step, providers apart."""
    found = [one["resourcePreEvent"]["metadata"] for one in events if "resourcePreEvent" in one]
    return [one for one in found if one["op"] in STEPS and not str(one["type"]).startswith("pulumi:")]


def _inputs_before(events: Iterable[Mapping[str, Json]]) -> dict[str, Mapping[str, Json]]:
    """Return the recorded inputs by URN, as the refresh that goes before every plan met them."""
    found: dict[str, Mapping[str, Json]] = {}
    for one in events:
        meta = (one.get("resourcePreEvent") or {}).get("metadata") or {}
        old = meta.get("old")
        if old and meta["urn"] not in found:
            found[str(meta["urn"])] = old.get("inputs") or {}
    return found


def _why_replaced(events: Iterable[Mapping[str, Json]]) -> dict[str, list[str]]:
    """Return by URN what the Instance resource said last of why it is replaced, or that it is gone."""
    found: dict[str, list[str]] = {}
    for one in events:
        said = one.get("diagnosticEvent") or {}
        text = str(said.get("message") or "").strip()
        if text.startswith(REPLACED):
            found[str(said.get("urn"))] = text.removeprefix(REPLACED).split("; ")
        elif GONE in text and said.get("severity") == "warning":
            found[str(said.get("urn"))] = [text]
    return found


def _drifts(run: Run) -> list[str]:
    """Return "kind: reason" of each instance that drifted; the Instance resource records it when it is read."""
    found = []
    for one in run.events:
        meta = (one.get("resOutputsEvent") or {}).get("metadata") or {}
        if meta.get("op") == "refresh" and str(meta.get("type")).endswith(INSTANCE):
            outputs = (meta.get("new") or {}).get("outputs") or {}
            if outputs.get("drift"):
                found.append(str(outputs["drift"]))
    found += [f"gone: {text}" for text in run.diagnostics("warning") if GONE in text]
    return list(dict.fromkeys(found))


def _own(op: str, known: bool, changed: list[str], keys: list[str]) -> list[str]:
    """Return what changed by itself in the program or its config, in words."""
    if op == "delete":
        return ["no longer declared"]
    if not known:
        return ["new"]
    said = " ".join(changed)
    return [*changed, *(f"{key} changed" for key in keys if key not in said)]


def _told(reason: str, own: list[str]) -> bool:
    """Whether "KEY changed" is told better by one that shows both values."""
    key, _, rest = reason.partition(" ")
    return rest == "changed" and any(one.startswith((f"{key}:", f"{key} ")) for one in own)


def _follows(op: str, kind: str, known: bool) -> list[str]:
    if op == "update" and known:
        return ["drift is put right"] if kind == INSTANCE else ["follows the instance"]
    return []


def _changed(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    """Return the inputs that differ, as "key: old -> new"; long values by their key alone."""
    found = []
    # a rented gateway's admin route is where its instance is; of any other Caddy the address is config
    follows = FOLLOWS | {"admin_url"} if new.get("rented") else FOLLOWS
    for key in sorted({*old, *new} - follows):
        before, after = old.get(key), new.get(key)
        if _same(before, after):
            continue
        shown = f"{key}: {_short(before)} -> {_short(after)}"
        found.append(shown if len(shown) <= SHOWN_CHARS * 2 else f"{key} changed")
    return found


def _same(old: Json, new: Json) -> bool:
    if UNKNOWN in (old, new):
        return True
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = {*old, *new}
        return all(_same(old.get(key), new.get(key)) for key in keys)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(map(_same, old, new))
    return bool(old == new)


def _short(value: Json) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
