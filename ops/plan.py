"""What an operation's events say: messages, counts; and of a preview the plan: steps and why, drift, offers, price.

Pure. Made by ops.engine, read by the commands. Inputs that are secret come as "[secret]"; those that are not known yet
as one fixed text, `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pulumi.automation.events import EngineEvent, StepEventMetadata

from components.records import structure
from components.vast.drift import TABLE, Drift
from components.vast.json_values import Json
from components.vast.models import gpus

INSTANCE = "Instance"
OFFERS = "OfferQuery"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # plugin.UnknownStringValue of pulumi/sdk
STEPS = ("create", "update", "replace", "delete")
# Inputs that follow the market or other resources: a change of theirs is none of the program or its config.
FOLLOWS = frozenset({
    "__provider", "candidates", "slot", "owner",
    "servers", "upstreams", "url", "instance_id", "ip", "port",
})  # fmt: skip
SHOWN_CHARS = 60


@dataclass(frozen=True)
class Choice:
    """An offer of a plan, as ranking.Candidate records it: dollars per hour and for the download, seconds to ready;
    where its speed is estimated, on what basis, and pairs/s and dollars per million pairs if that was measured."""

    ask_contract_id: int = 0
    machine_id: int = 0
    gpu_name: str = ""
    geolocation: str = "-"
    num_gpus: int = 1
    dph_total: float = 0.0
    bid_usd: float = 0.0
    pull_cost_usd: float = 0.0
    ready_s: float = 0.0
    estimate: str = ""
    pairs_per_s: float | None = None
    usd_per_million: float | None = None

    @property
    def hourly_usd(self) -> float:
        """What would be paid per hour: of an interruptible one the bid, without its disk."""
        return self.bid_usd or self.dph_total

    @property
    def gpu(self) -> str:
        return gpus(self.num_gpus, self.gpu_name)


@dataclass(frozen=True)
class Step:
    """One resource that would change, and why; `changed`: in words, by input, what the program or config changes."""

    op: str
    type: str
    name: str
    reasons: Sequence[str] = ()
    changed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What an `up` would do.

    drift: "kind: reason" of each resource that is not what was declared; unheard: of each server of which nothing is
    heard, and about which nothing is done. pending: changes of the program or its config.
    offers: the search's candidates, best first, where one was made. now_usd, after_usd: dollars per hour of everything
    that is rented; None where nothing is, and where it is not known which offer will be.
    """

    steps: Sequence[Step]
    drift: Sequence[str]
    unheard: Sequence[str]
    pending: Sequence[str]
    choices: Sequence[Choice]
    offers: Sequence[Choice]
    now_usd: float | None
    after_usd: float | None
    warnings: Sequence[str]

    @property
    def in_sync(self) -> bool:
        return not self.steps

    def counts(self) -> dict[str, int]:
        """Return how many steps there are of each kind."""
        return {op: count for op in STEPS if (count := sum(step.op == op for step in self.steps))}

    def touched(self) -> list[Step]:
        """Return the steps that rent or destroy an instance."""
        return [one for one in self.steps if one.type == INSTANCE and one.op != "update"]


@dataclass(frozen=True)
class Run:
    """An operation that has ended, as its events tell it."""

    events: Sequence[EngineEvent]

    def messages(self, severity: str, *, on: str = "", but: frozenset[str] = frozenset()) -> list[str]:
        """Return the messages of one severity (error, warning, info), each once, in order.

        Only those on the URN `on`, where it is given, and none on the URNs `but`.
        """
        diagnostics = [one.diagnostic_event for one in self.events if one.diagnostic_event]
        texts = [
            one.message.strip()
            for one in diagnostics
            if one.severity == severity and one.urn not in but and on in ("", one.urn)
        ]
        return list(dict.fromkeys(filter(None, texts)))

    def policies(self) -> list[str]:
        """Return what blocks, as "policy: RULE: what": from the program's guard or from a policy pack."""
        lines = [line.strip() for text in self.messages("error") for line in text.splitlines()]
        blocked = [*(one for one in lines if one.startswith("policy: ")), *self._packs("mandatory", "remediate")]
        return list(dict.fromkeys(blocked))

    def warnings(self) -> list[str]:
        """Return warnings and what policy packs advise; what stands on a row that is rented anew is why it is."""
        rented = frozenset(one.urn for one in self.steps("create", "replace"))
        return list(dict.fromkeys([*self.messages("warning", but=rented), *self._packs("advisory")]))

    def steps(self, *ops: str) -> list[StepEventMetadata]:
        """Return the steps of these kinds, those of providers and the stack itself apart."""
        found = [one.resource_pre_event.metadata for one in self.events if one.resource_pre_event]
        return [one for one in found if str(one.op.value) in ops and not one.type.startswith("pulumi:")]

    def counts(self) -> dict[str, int]:
        """Return what the operation did, by kind, from its closing event."""
        found = [one.summary_event.resource_changes for one in self.events if one.summary_event]
        summary = {str(op): count for op, count in (found[-1] if found else {}).items()}
        return {op: summary[op] for op in STEPS if summary.get(op)}

    def plan(self) -> Plan:
        """Return the plan that a preview's events describe."""
        drift = dict(self._drift())
        recorded = {one.urn: one.old for one in reversed(self.steps("refresh", "same", *STEPS)) if one.old}
        steps, prices = [], []
        choices: list[Choice] = []
        offers: list[Choice] = []
        for meta in self.steps("same", *STEPS):
            op, kind = str(meta.op.value), meta.type.rpartition(":")[2]
            if kind == INSTANCE:
                chosen = _offers(meta)[:1] if op in ("create", "replace") else []
                choices += chosen
                prices.append((op, _hourly(meta), chosen[0].hourly_usd if chosen else None))
            if kind == OFFERS and op not in ("same", "delete"):
                offers += _offers(meta)
            if op != "same":
                old = recorded.get(meta.urn)
                changed = _changed(meta, op, (old.inputs or {}) if old else None)
                warnings = self.messages("warning", on=meta.urn) if op == "replace" else []
                why = [drift[meta.urn]] if meta.urn in drift else warnings
                why = [*why, *changed.values()] or (["follows what it is made from"] if op == "update" else [])
                steps.append(Step(op, kind, named(meta.urn), why, changed))
        pending = [f"{one.name}: {text}" for one in steps for text in one.changed.values()]
        now, after = prices_of(prices)
        planned = {meta.urn for meta in self.steps(*STEPS)}
        left = [text for urn, text in drift.items() if urn not in planned]
        unheard = [text for text in left if (one := Drift.parse(text)) and one.kind == "unreachable"]
        drifted = [text for text in drift.values() if text not in left]
        return Plan(steps, drifted, unheard, pending, choices, offers, now, after, self.warnings())

    def _drift(self) -> Iterator[tuple[str, str]]:
        """Yield by URN what the refresh before a plan found; resources record it when they are read."""
        for one in self.events:
            meta = one.res_outputs_event.metadata if one.res_outputs_event else None
            if meta is None or meta.op.value != "refresh" or not meta.old:
                continue
            if meta.new is None:
                yield meta.urn, f"gone: {named(meta.urn)} ({meta.old.id}): {TABLE['gone'][1]}"
            elif found := (meta.new.outputs or {}).get("drift"):
                yield meta.urn, str(found)

    def _packs(self, *levels: str) -> list[str]:
        found = [one.policy_event for one in self.events if one.policy_event]
        texts = [(" ".join(one.message.split()), one) for one in found if one.enforcement_level in levels]
        return [text if text.startswith("policy: ") else f"policy: {one.policy_name}: {text}" for text, one in texts]


def prices_of(steps: Sequence[tuple[str, float, float | None]]) -> tuple[float | None, float | None]:
    """Return $/h now and after, of everything that is rented.

    For each instance: what is done with it, what it costs now (0 for one that is not there), what the offer that would
    be rented costs (None where that is not known).
    """
    now = [usd for op, usd, _ in steps if op != "create"]
    after = [offer if op in ("create", "replace") else usd for op, usd, offer in steps if op != "delete"]
    known = [usd for usd in after if usd is not None]
    return (round(sum(now), 5) if now else None), (round(sum(known), 5) if steps and known == after else None)


def _hourly(meta: StepEventMetadata) -> float:
    cost = (meta.old.outputs or {}).get("hourly_cost_usd") if meta.old else None
    return float(cost.get("total") or 0.0) if isinstance(cost, Mapping) else 0.0


def _offers(meta: StepEventMetadata) -> list[Choice]:
    found = ((meta.new.inputs if meta.new else None) or {}).get("candidates")
    return [structure(Choice, one) for one in found] if isinstance(found, list) else []


def named(urn: str) -> str:
    """Return the name at the end of a URN."""
    return urn.rpartition("::")[2]


def _changed(meta: StepEventMetadata, op: str, before: Mapping[str, Json] | None) -> dict[str, str]:
    """Return by key, in words, the inputs that the program or its config changes; long values by their key alone."""
    if op == "delete":
        return {"": "no longer declared"}
    if before is None:
        return {"": "new"}
    new = (meta.new.inputs if meta.new else None) or {}
    # a rented gateway's admin route is where its instance is; of any other Caddy the address is config
    ignored = FOLLOWS | ({"admin_url"} if new.get("rented") else frozenset())
    found = {}
    for key in sorted({*before, *new} - ignored):
        if not _same(before.get(key), new.get(key)):
            shown = f"{key}: {_short(before.get(key))} -> {_short(new.get(key))}"
            found[key] = shown if len(shown) <= SHOWN_CHARS * 2 else f"{key} changed"
    # a secret is shown alike before and after: that it changed is among the keys
    hidden = [key for key in meta.keys or [] if key not in ignored and key not in found and key != "drift"]
    return found | {key: f"{key} changed" for key in hidden}


def _same(old: Json, new: Json) -> bool:
    if UNKNOWN in (old, new):
        return True
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return all(_same(old.get(key), new.get(key)) for key in {*old, *new})
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(map(_same, old, new))
    return bool(old == new)


def _short(value: Json) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
