"""Effect of a changed input on a running instance: replace, update in place, or none.

The table is also in docs/behaviour.md. Pure; called by the Instance resource's `diff`. The engine writes the whole
state after each step of an `up`, so long inputs are stored once: the outputs contain only their digests. The stack's
secret is the key of the digests, because some inputs are secret and easy to guess.
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
    # a running container cannot change
    "replace": (
        "image", "onstart", "args", "env", "files", "ports", "disk_gb", "image_login", "key_env", "stack_secret",
    ),
    # label, monitoring and timeouts
    "update": (
        "label_base", "owner", "probe", "deadlines", "watch", "poll_s", "max_tries", "spec_fault_logs", "replace",
        "hedge", "money", "bid", "policy", "certificate_path",
    ),
    # the CAs that clients trust: the instance stays if the CA that signed its certificate is still among them
    "trust": ("ca_certificate",),
    # the search: the instance stays if its machine still satisfies it
    "judge": ("search",),
    # used only when renting, so a moved market is no change; and the CA's key, which changes with `ca_certificate`
    "ignore": ("adopt_instance_id", "candidates", "slot", "ca_private_key"),
}  # fmt: skip
TABLE: Mapping[str, Effect] = {key: effect for effect, keys in EFFECTS.items() for key in keys}
# Inputs that the outputs contain unchanged: for `read` and `delete`, and `policy` for a pack that checks the stack.
# The outputs contain digests of all other inputs that are compared.
COPIED_KEYS = ("label_base", "owner", "probe", "watch", "ca_certificate", "certificate_path", "bid", "policy")


@dataclass(frozen=True)
class Change:
    """The plan for one instance: keys that replace or update it, the reasons, warnings, and why to renew its
    certificate in place ("" for no renewal)."""

    replaces: list[str] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    renewal: str = ""

    @property
    def any(self) -> bool:
        return bool(self.replaces or self.updates)


def record_inputs(inputs: Wire) -> dict[str, Json]:
    """Return the part of the outputs that `plan` compares with new inputs."""
    copies = {key: inputs[key] for key in COPIED_KEYS if key in inputs}
    digests = {
        key: _digest(inputs, key) for key, effect in TABLE.items() if effect != "ignore" and key not in COPIED_KEYS
    }
    return {**copies, "declared": as_text(digests)}


def plan(olds: Wire, news: Wire, *, now: float, unknown: Collection[str] = ()) -> Change:
    """Compare recorded outputs with new inputs, and plan for the drift that `read` recorded.
    `unknown`: inputs whose values are not known yet."""
    change = Change()
    declared = json.loads(olds.get("declared") or "{}")
    # digests with different keys cannot be compared
    comparable = "stack_secret" not in unknown and declared.get("stack_secret") == _digest(news, "stack_secret")
    for key, effect in TABLE.items():
        if effect == "ignore" or key in unknown:
            continue
        old, new = olds.get(key), news.get(key)
        if key not in COPIED_KEYS:
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
            # a refresh still has the old config and prints this too, even if `up` then replaces the instance
            why = "nothing is done unless heal_on is unreachable, since it may be this machine's own network"
            change.warnings.append(f"{drift}; {'heal_on is never' if watch.heal_on == 'never' else why}")
    if change.updates and not change.replaces and "ca_certificate" not in unknown:
        return replace(change, renewal=renewal(olds, news, now=now))
    return change


def renewal(olds: Wire, news: Wire, *, now: float) -> str:
    """Return why to renew the certificate of an instance that is not replaced, or "" for no renewal."""
    if not news.get("certificate_path") or not news.get("ca_certificate"):
        return ""
    drift = Drift.parse(olds.get("drift"))
    if drift is not None and drift.kind == "renewal":
        return drift.reason
    drifts = expiry_drifts(olds, 0.0, _watch(news), now)
    return next((drift.reason for drift in drifts if drift.kind == "renewal"), "")


def _watch(inputs: Wire) -> Watch:
    return structure(Watch, inputs["watch"]) if isinstance(inputs.get("watch"), Mapping) else Watch()


def _digest(inputs: Wire, key: str) -> str | None:
    value = inputs.get(key)
    return None if value is None else digest(value, str(inputs.get("stack_secret") or ""))


def _judge(change: Change, olds: Wire, news: Wire, now: float) -> None:
    """Plan a replacement if the machine does not satisfy the new search."""
    search, offer = news.get("search"), json.loads(olds.get("offer") or "{}")
    if not search or not offer:  # the state has no offer of an adopted instance
        change.updates.append("search")
        return
    # a rented machine has no offer, so conditions on the offer itself do not apply
    filters = {
        name: ops
        for name, ops in structure(Search, json.loads(search)).to_query().filters.items()
        if name not in ("rentable", "rented")
    }
    broken = unmet_conditions(filters, offer, now=now)
    if broken:
        change.replaces.append("search")
        change.reasons.append(f"the machine no longer satisfies: {'; '.join(broken)}")
    else:
        change.updates.append("search")
        if conditions := unknown_conditions(filters, offer, now=now):
            change.warnings.append(f"the instance is kept, but its machine has no value for {', '.join(conditions)}")
