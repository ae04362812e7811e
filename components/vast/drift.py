"""Drift of an instance: whether it differs from what was declared, why, and what `up` does about it.

The table is also in docs/behaviour.md. Pure: a contract, a probe's verdict and the recorded outputs go
in. Called by the Instance resource's `read`; its `diff` acts on the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from components.vast.json_values import Json
from components.vast.models import Contract
from components.vast.probe import ProbeResult
from components.vast.ranking import minutes
from components.vast.status import Failure, Observation

Action = Literal["none", "update", "replace", "warn"]
HealOn = Literal["dead", "unreachable", "never"]
PRICE_TOLERANCE = 0.02  # share by which a price may differ before it is said

# kind -> (what up does, what it means); the order is that of docs/behaviour.md
TABLE: Mapping[str, tuple[Action, str]] = {
    "gone": ("replace", "Vast.ai no longer lists the instance"),
    "stopped": ("replace", "stopped by the host, by someone else or for want of credit; its GPU may be re-let"),
    "outbid": ("replace", "an interruptible instance was outbid and paused"),
    "exited": ("replace", "the container's process ended"),
    "offline": ("replace", "the host sends no heartbeat"),
    "not-running": ("replace", "the container is not running"),
    "engine-dead": ("replace", "the container runs but its server does not serve"),
    "unreachable": ("warn", "nothing can be said: no answer comes from the host at all"),
    "address": ("update", "the IP or port moved"),
    "renewal": ("update", "the certificate is not for the new IP, or ends within renew.certificate_before_d"),
    "certificate": ("replace", "the same, of a server that takes no other one while it runs"),
    "image": ("replace", "the image was changed by hand"),
    "label": ("update", "the label was changed by hand"),
    "command": ("replace", "the container's command was changed by hand"),
    "price": ("warn", "the price was raised, or a raise is announced"),
    "ending": ("replace", "the contract ends within renew.before_h"),
}
# what `heal_on` decides about: whether the server is alive
BY_HEAL_ON = ("stopped", "outbid", "exited", "offline", "not-running", "engine-dead", "unreachable")


@dataclass(frozen=True)
class Drift:
    """What differs from what was declared."""

    kind: str
    reason: str

    def action(self, heal_on: HealOn) -> Action:
        """Return what `up` does about it."""
        if self.kind in BY_HEAL_ON and heal_on != "dead":
            return "replace" if heal_on == "unreachable" else "warn"
        return TABLE[self.kind][0]

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"

    @classmethod
    def parse(cls, text: object) -> Drift | None:
        """Read a drift back from the outputs; None for none."""
        kind, colon, reason = str(text or "").partition(": ")
        return cls(kind, reason) if colon and kind in TABLE else None


@dataclass(frozen=True)
class Watch:
    """How strictly an instance is watched; what looks bad is asked again for `probe_window_s`.

    A server that takes connections may be busy for `answer_s`, as its clients wait.
    """

    heal_on: HealOn = "dead"
    probe_window_s: float = 20.0
    answer_s: float = 120.0
    renew_before_h: float = 0.0
    renew_certificate_before_d: float = 10.0


def from_state(contract: Contract, seen: Observation) -> Drift | None:
    """Judge by what the API says alone; None when the container runs and its port is mapped."""
    failure = seen.failure
    if failure is not None:
        return Drift(_kind(failure), f"instance {contract.id}: {failure.text}")
    if seen.away:
        return Drift("offline", f"instance {contract.id}: the host is {contract.actual_status}")
    if seen.port is None:
        status = contract.actual_status or "being provisioned"
        return Drift("not-running", f"instance {contract.id} is {status}, with no address ({seen.progress[:120]})")
    return None


def from_move(contract: Contract, seen: Observation, outs: Mapping[str, Json]) -> Drift | None:
    """Judge an IP that changed: a certificate is for one IP."""
    if outs.get("certificate_expires_at") and outs.get("ip") and seen.port is not None and seen.ip != outs["ip"]:
        reason = f"instance {contract.id} moved from {outs['ip']} to {seen.ip}, which its certificate does not name"
        return Drift(_of_certificate(outs), reason)
    return None


def from_probe(contract: Contract, seen: Observation, probed: ProbeResult) -> Drift | None:
    """Judge by what the server itself answered, or did not: for `answer_s`, where it takes connections."""
    where = f"instance {contract.id} at {seen.ip}:{seen.port}"
    if probed.verdict == "ready":
        return None
    if probed.verdict == "no_answer":
        return Drift("unreachable", f"{where} runs, says the API, but cannot be reached from here: {probed.detail}")
    if probed.verdict == "busy":
        return Drift("engine-dead", f"{where} takes connections, but its server hangs: {probed.detail}")
    return Drift("engine-dead", f"{where} runs but does not serve: {probed.detail}")


def from_terms(
    contract: Contract,
    seen: Observation,
    outs: Mapping[str, Json],
    watch: Watch,
    *,
    now: float,
    announced_dph_usd: float | None = None,
) -> list[Drift]:
    """Judge a serving instance by its address, image, command, label, price and end, against what was recorded."""
    found = [*expiry_drifts(outs, contract.end_date, watch, now)]
    if outs.get("ip") and seen.port is not None and (seen.ip, seen.port) != (outs["ip"], int(outs.get("port") or 0)):
        found.append(Drift("address", f"moved from {outs['ip']}:{outs.get('port'):.0f} to {seen.ip}:{seen.port}"))
    if contract.image and outs.get("image_uuid") and contract.image != outs["image_uuid"]:
        found.append(Drift("image", f"instance {contract.id} runs {contract.image}, not {outs['image_uuid']}"))
    if outs.get("command_digest") and contract.command_digest not in ("", outs["command_digest"]):
        found.append(Drift("command", f"the command of instance {contract.id} is not the one it was rented with"))
    if outs.get("label") and contract.label != outs["label"]:
        found.append(Drift("label", f"the label is {contract.label!r}, not {outs['label']!r}"))
    recorded = float(outs.get("dph_total_usd") or 0.0)
    if recorded and contract.dph_total_usd > recorded * (1 + PRICE_TOLERANCE):
        found.append(Drift("price", f"now ${contract.dph_total_usd:.4f}/h, was ${recorded:.4f}/h when it was rented"))
    if announced_dph_usd is not None:
        found.append(
            Drift("price", f"the host announces ${announced_dph_usd:.4f}/h, now ${contract.dph_total_usd:.4f}/h")
        )
    return found


def expiry_drifts(outs: Mapping[str, Json], end_date: float, watch: Watch, now: float) -> Iterator[Drift]:
    """Yield what ends too soon: the certificate, the contract."""
    ends = float(outs.get("certificate_expires_at") or 0.0)
    if ends and ends - now < watch.renew_certificate_before_d * 86400:
        yield Drift(_of_certificate(outs), f"it ends in {max(ends - now, 0) / 86400:.0f} days")
    left_s = end_date - now
    if watch.renew_before_h and end_date and left_s < watch.renew_before_h * 3600:
        yield Drift("ending", f"the contract ends in {minutes(max(left_s, 0))}")


def _of_certificate(outs: Mapping[str, Json]) -> str:
    return "renewal" if outs.get("certificate_path") else "certificate"


def _kind(failure: Failure) -> str:
    return {"exited": "exited", "outbid": "outbid", "stopped": "stopped", "frozen": "stopped"}.get(
        failure.sign, "not-running"
    )
