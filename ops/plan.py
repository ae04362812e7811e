"""Results of Pulumi's events: messages and counts; for a preview the plan with steps, reasons, drift, offers and price.

Pure. Created by ops.engine, read by the commands. Events contain a secret input as "[secret]", and an input that is not
known yet as `UNKNOWN`.
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
# Inputs that come from the market or from other resources; their changes are not changes of the program or its config.
DERIVED_INPUTS = frozenset({
    "__provider", "candidates", "slot", "owner",
    "servers", "upstreams", "url", "instance_id", "ip", "port",
})  # fmt: skip
MAX_VALUE_CHARS = 60


@dataclass(frozen=True)
class Choice:
    """An offer of a plan, from ranking.Candidate: dollars per hour and for the download, seconds to ready; the basis of
    its estimated speed, if any; pairs/s and dollars per million pairs, if measured."""

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
        """Dollars per hour; for an interruptible offer the bid, without the disk."""
        return self.bid_usd or self.dph_total

    @property
    def gpu(self) -> str:
        return gpus(self.num_gpus, self.gpu_name)


@dataclass(frozen=True)
class Step:
    """A resource that would change, with reasons; `changed`: texts of the program's or config's changes, by input."""

    op: str
    type: str
    name: str
    reasons: Sequence[str] = ()
    changed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The changes of an `up`.

    drift: "kind: reason" of each resource that drifted; unheard: the same of each unreachable server that stays as it
    is. pending: undeployed changes of the program or its config. offers: candidates of the search, if any, best first.
    now_usd, after_usd: dollars per hour of all instances; None if nothing is rented, or if the offer is not known yet.
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
        return {op: count for op in STEPS if (count := sum(step.op == op for step in self.steps))}

    def instance_steps(self) -> list[Step]:
        """Return the steps that rent or destroy an instance."""
        return [step for step in self.steps if step.type == INSTANCE and step.op != "update"]


@dataclass(frozen=True)
class Run:
    """A finished operation with its events."""

    events: Sequence[EngineEvent]

    def messages(self, severity: str, *, urn: str = "", exclude: frozenset[str] = frozenset()) -> list[str]:
        """Return the distinct messages of a severity (error, warning); only of `urn`, if set; not of `exclude`."""
        texts = [
            diagnostic.message.strip()
            for event in self.events
            if (diagnostic := event.diagnostic_event) and diagnostic.severity == severity
            if diagnostic.urn not in exclude and urn in ("", diagnostic.urn)
        ]
        return list(dict.fromkeys(filter(None, texts)))

    def policies(self) -> list[str]:
        """Return the violations of the program's guard or a policy pack, as "policy: RULE: text"."""
        lines = [line.strip() for text in self.messages("error") for line in text.splitlines()]
        violations = [*(line for line in lines if line.startswith("policy: ")), *self._packs("mandatory", "remediate")]
        return list(dict.fromkeys(violations))

    def warnings(self) -> list[str]:
        """Return warnings and advisory policies. A warning on a resource to create or replace is its step's reason."""
        rented = frozenset(meta.urn for meta in self.steps("create", "replace"))
        return list(dict.fromkeys([*self.messages("warning", exclude=rented), *self._packs("advisory")]))

    def steps(self, *ops: str) -> list[StepEventMetadata]:
        """Return the steps with these operations, without those of providers and of the stack itself."""
        steps = [event.resource_pre_event.metadata for event in self.events if event.resource_pre_event]
        return [meta for meta in steps if str(meta.op.value) in ops and not meta.type.startswith("pulumi:")]

    def counts(self) -> dict[str, int]:
        """Return the number of changes by operation, from the summary event."""
        summaries = [event.summary_event.resource_changes for event in self.events if event.summary_event]
        summary = {str(op): count for op, count in (summaries[-1] if summaries else {}).items()}
        return {op: summary[op] for op in STEPS if summary.get(op)}

    def rented(self) -> list[str]:
        """Return the ids of the instances that this operation has created and not deleted again; a preview has none."""
        ids: dict[str, None] = {}
        for event in self.events:
            meta = event.res_outputs_event.metadata if event.res_outputs_event else None
            if meta is None or meta.type.rpartition(":")[2] != INSTANCE:
                continue
            if meta.op.value in ("create", "create-replacement") and meta.new and meta.new.id:
                ids[meta.new.id] = None
            elif meta.op.value in ("delete", "delete-replaced") and meta.old:
                ids.pop(meta.old.id, None)
        return list(ids)

    def plan(self) -> Plan:
        drift = dict(self._drift())
        recorded = {meta.urn: meta.old for meta in reversed(self.steps("refresh", "same", *STEPS)) if meta.old}
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
                warnings = self.messages("warning", urn=meta.urn) if op == "replace" else []
                reasons = [drift[meta.urn]] if meta.urn in drift else warnings
                reasons = [*reasons, *changed.values()] or (["depends on changed resources"] if op == "update" else [])
                steps.append(Step(op, kind, urn_name(meta.urn), reasons, changed))
        pending = [f"{step.name}: {text}" for step in steps for text in step.changed.values()]
        now, after = total_prices(prices)
        planned = {meta.urn for meta in self.steps(*STEPS)}
        unplanned = [text for urn, text in drift.items() if urn not in planned]
        unheard = [text for text in unplanned if (parsed := Drift.parse(text)) and parsed.kind == "unreachable"]
        drifted = [text for text in drift.values() if text not in unplanned]
        return Plan(steps, drifted, unheard, pending, choices, offers, now, after, self.warnings())

    def _drift(self) -> Iterator[tuple[str, str]]:
        """Yield URN and drift from the refresh before a plan; a resource's `read` records its drift."""
        for event in self.events:
            meta = event.res_outputs_event.metadata if event.res_outputs_event else None
            if meta is None or meta.op.value != "refresh" or not meta.old:
                continue
            if meta.new is None:
                yield meta.urn, f"gone: {urn_name(meta.urn)} ({meta.old.id}): {TABLE['gone'][1]}"
            elif text := (meta.new.outputs or {}).get("drift"):
                yield meta.urn, str(text)

    def _packs(self, *levels: str) -> list[str]:
        texts = [
            (" ".join(policy.message.split()), policy.policy_name)
            for event in self.events
            if (policy := event.policy_event) and policy.enforcement_level in levels
        ]
        return [text if text.startswith("policy: ") else f"policy: {rule}: {text}" for text, rule in texts]


def total_prices(steps: Sequence[tuple[str, float, float | None]]) -> tuple[float | None, float | None]:
    """Return total $/h now and after the plan.

    `steps`: per instance the operation, its current price (0 if not rented), the offer's price (None if unknown).
    """
    now = [usd for op, usd, _ in steps if op != "create"]
    after = [offer if op in ("create", "replace") else usd for op, usd, offer in steps if op != "delete"]
    known = [usd for usd in after if usd is not None]
    return (round(sum(now), 5) if now else None), (round(sum(known), 5) if steps and known == after else None)


def _hourly(meta: StepEventMetadata) -> float:
    cost = (meta.old.outputs or {}).get("hourly_cost_usd") if meta.old else None
    return float(cost.get("total") or 0.0) if isinstance(cost, Mapping) else 0.0


def _offers(meta: StepEventMetadata) -> list[Choice]:
    candidates = ((meta.new.inputs if meta.new else None) or {}).get("candidates")
    return [structure(Choice, candidate) for candidate in candidates] if isinstance(candidates, list) else []


def urn_name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _changed(meta: StepEventMetadata, op: str, before: Mapping[str, Json] | None) -> dict[str, str]:
    """Return texts of the program's or config's changes by input; a long text has no values."""
    if op == "delete":
        return {"": "no longer declared"}
    if before is None:
        return {"": "new"}
    new = (meta.new.inputs if meta.new else None) or {}
    # the admin URL of a rented gateway comes from its instance; that of any other Caddy is config
    ignored = DERIVED_INPUTS | ({"admin_url"} if new.get("rented") else frozenset())
    changes = {}
    for key in sorted({*before, *new} - ignored):
        if not _same(before.get(key), new.get(key)):
            text = f"{key}: {_short(before.get(key))} -> {_short(new.get(key))}"
            changes[key] = text if len(text) <= MAX_VALUE_CHARS * 2 else f"{key} changed"
    # a changed secret is "[secret]" before and after, but its key is in meta.keys
    hidden = [key for key in meta.keys or [] if key not in ignored and key not in changes and key != "drift"]
    return changes | {key: f"{key} changed" for key in hidden}


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
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…"
