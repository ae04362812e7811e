"""What a changed input does to a running instance: replaces it, updates it in place, or nothing.

The table is also in docs/behaviour.md. Pure; called by the Instance resource's `diff`. The engine writes the whole
state after each step of an `up`, so a state keeps long inputs once: `recorded` leaves digests of them in the outputs,
keyed by the stack's secret, as some of these inputs are secret and may be easy to guess.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from components.records import structure
from components.vast.drift import BY_HEAL_ON, Drift, Watch, expiry_drifts
from components.vast.identity import signing_certificate
from components.vast.json_values import Json, Wire, as_text, digest, same
from components.vast.market import Search
from components.vast.query import unknown_conditions, unmet_conditions

Effect = Literal["replace", "update", "trust", "judge", "ignore"]

EFFECTS: Mapping[Effect, tuple[str, ...]] = {
    # a container is fixed for life: anything in it needs another one
    "replace": (
        "image", "onstart", "args", "env", "files", "ports", "disk_gb", "image_login", "key_env", "stack_secret",
    ),
    # how it is called, watched and waited for
    "update": (
        "label_base", "owner", "probe", "deadlines", "watch", "poll_s", "max_tries", "spec_fault_logs", "replace",
        "hedge", "money", "bid", "policy", "certificate_path",
    ),
    # whom clients trust: the machine stays if its certificate's signer is among them; the next certificate is another's
    "trust": ("ca_certificate",),
    # what was asked of the market: the machine stays if it still satisfies
    "judge": ("search",),
    # what only matters at the moment of renting; what was first in line then, for a moving market is no change; and the
    # key that signs with the certificate above, and changes with it
    "ignore": ("adopt_instance_id", "candidates", "slot", "ca_private_key"),
}  # fmt: skip
TABLE: Mapping[str, Effect] = {key: effect for effect, keys in EFFECTS.items() for key in keys}
# What `read` and `delete` need is kept in the outputs as it is, and `policy`, which a pack that judges the whole stack
# looks up there; of the rest only whether it changed.
KEPT = ("label_base", "owner", "probe", "watch", "ca_certificate", "certificate_path", "bid", "policy")


@dataclass(frozen=True)
class Change:
    """The plan for one instance: which keys replace, which update, and why, in words; what drift is left; why its
    certificate is renewed where it runs."""

    replaces: list[str] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    renewal: str = ""

    @property
    def any(self) -> bool:
        return bool(self.replaces or self.updates)


def record_inputs(inputs: Wire) -> dict[str, Json]:
    """Return what outputs keep of the inputs, for `plan` to compare with."""
    kept = {key: inputs[key] for key in KEPT if key in inputs}
    others = [key for key, effect in TABLE.items() if effect != "ignore" and key not in KEPT]
    return {**kept, "declared": as_text({key: _digest(inputs, key) for key in others})}


def plan(olds: Wire, news: Wire, *, now: float, unknown: Collection[str] = ()) -> Change:
    """Compare recorded outputs with checked inputs, and act on the drift that `read` recorded.

    `unknown`: inputs that cannot be compared yet.
    """
    change = Change()
    declared = json.loads(olds.get("declared") or "{}")
    # digests by another secret say nothing of what else changed
    comparable = "stack_secret" not in unknown and declared.get("stack_secret") == _digest(news, "stack_secret")
    for key, effect in TABLE.items():
        if effect == "ignore" or key in unknown:
            continue
        old, new = olds.get(key), news.get(key)
        if key not in KEPT:
            if not comparable and key != "stack_secret":
                continue
            old, new = declared.get(key), _digest(news, key)
        if same(old, new):
            continue
        if key == "bid" and bool(old) != bool(new):
            change.replaces.append(key)
            change.reasons.append("interruptible and on-demand are different contracts")
        elif effect == "judge":
            _judge(change, olds, news, now)
        elif effect == "replace" or (effect == "trust" and not (old and new and signing_certificate(old) in new)):
            change.replaces.append(key)
            change.reasons.append(f"{key} changed")
        else:
            change.updates.append(key)
    # the new one: what a refresh has recorded is judged by the config of now
    watch = _watch(news)
    drift = Drift.parse(olds.get("drift"))
    if drift is None and "watch" in change.updates:
        drift = next(expiry_drifts(olds, float(olds.get("end_date") or 0.0), watch, now), None)
    if drift is not None:
        action = drift.action(watch.heal_on)
        keys = {"replace": change.replaces, "update": change.updates}.get(action)
        if keys is not None:
            keys.append("drift")
            change.reasons.append(str(drift))
        elif drift.kind in BY_HEAL_ON:
            # also said by a refresh, which has the config of before: true beside "will be replaced", by that of now
            why = "nothing is done unless heal_on is unreachable, since it may be this machine's own network"
            change.warnings.append(f"{drift}; {'heal_on is never' if watch.heal_on == 'never' else why}")
    if change.updates and not change.replaces and "ca_certificate" not in unknown:
        return replace(change, renewal=renewal(olds, news, now=now))
    return change


def renewal(olds: Wire, news: Wire, *, now: float) -> str:
    """Return why an instance that stays gets another certificate, or "" where it keeps what it has."""
    if not news.get("certificate_path") or not news.get("ca_certificate"):
        return ""
    drift = Drift.parse(olds.get("drift"))
    if drift is not None and drift.kind == "renewal":
        return drift.reason
    ends = expiry_drifts(olds, 0.0, _watch(news), now)
    return next((one.reason for one in ends if one.kind == "renewal"), "")


def _watch(inputs: Wire) -> Watch:
    return structure(Watch, inputs["watch"]) if isinstance(inputs.get("watch"), Mapping) else Watch()


def _digest(inputs: Wire, key: str) -> str | None:
    value = inputs.get(key)
    return None if value is None else digest(value, str(inputs.get("stack_secret") or ""))


def _judge(change: Change, olds: Wire, news: Wire, now: float) -> None:
    """Keep the machine if it satisfies the new search; otherwise say which condition it breaks."""
    search, offer = news.get("search"), json.loads(olds.get("offer") or "{}")
    if not search or not offer:  # nothing is known of the machine of an adopted instance
        change.updates.append("search")
        return
    # a machine that is rented is not on offer: what only offers have is not held against it
    filters = {
        name: ops
        for name, ops in structure(Search, json.loads(search)).filters().items()
        if name not in ("rentable", "rented")
    }
    broken = unmet_conditions(filters, offer, now=now)
    if broken:
        change.replaces.append("search")
        change.reasons.append(f"the machine no longer satisfies: {'; '.join(broken)}")
    else:
        change.updates.append("search")
        if conditions := unknown_conditions(filters, offer, now=now):
            change.warnings.append(f"is kept, but nothing is known of this machine for {', '.join(conditions)}")
