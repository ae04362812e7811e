"""Drift of an instance: its kind, its reason, and what `up` does about it.

The table is also in docs/behaviour.md. Pure: the inputs are a contract, a probe result and the recorded outputs.
Called by the Instance resource's `read`; its `diff` acts on the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from components.vast.json_values import Json
from components.vast.models import Contract
from components.vast.probe import ProbeResult
from components.vast.ranking import minutes
from components.vast.status import Observation

Action = Literal["none", "update", "replace", "warn"]
HealOn = Literal["dead", "unreachable", "never"]
PRICE_TOLERANCE = 0.02  # share of the price; a smaller increase is not reported

# kind -> (what `up` does, meaning), in the order of docs/behaviour.md
TABLE: Mapping[str, tuple[Action, str]] = {
    "gone": ("replace", "Vast.ai no longer lists the instance"),
    "stopped": ("replace", "stopped by the host, by someone else or for lack of credit; the host may rent out its GPU"),
    "outbid": ("replace", "an interruptible instance was outbid and paused"),
    "exited": ("replace", "the container's process ended"),
    "offline": ("replace", "the host sends no heartbeat"),
    "not-running": ("replace", "the container is not running"),
    "engine-dead": ("replace", "the container runs but its server does not serve"),
    "unreachable": ("warn", "state unknown: the host does not respond at all"),
    "address": ("update", "the IP or port moved"),
    "renewal": ("update", "the certificate is not for the new IP, or expires within renew.certificate_before_d"),
    "certificate": ("replace", "as renewal, but this server cannot load another certificate while it runs"),
    "image": ("replace", "the image was changed by hand"),
    "label": ("update", "the label was changed by hand"),
    "command": ("replace", "the container's command was changed by hand"),
    "price": ("warn", "the price increased, or an increase is announced"),
    "ending": ("replace", "the contract ends within renew.before_h"),
}
# kinds whose action depends on `heal_on`: the server may be dead
BY_HEAL_ON = ("stopped", "outbid", "exited", "offline", "not-running", "engine-dead", "unreachable")


# sign of a failure -> kind of drift; all others are "not-running"
KINDS = {"exited": "exited", "outbid": "outbid", "stopped": "stopped", "frozen": "stopped"}


@dataclass(frozen=True)
class Drift:
    kind: str
    reason: str

    def action(self, heal_on: HealOn) -> Action:
        """Return the action of `up`."""
        if self.kind in BY_HEAL_ON and heal_on != "dead":
            return "replace" if heal_on == "unreachable" else "warn"
        return TABLE[self.kind][0]

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"

    @classmethod
    def parse(cls, text: object) -> Drift | None:
        """Parse the drift in the outputs; None if there is none."""
        kind, colon, reason = str(text or "").partition(": ")
        return cls(kind, reason) if colon and kind in TABLE else None


@dataclass(frozen=True)
class Watch:
    """When an instance counts as drifted. A failed probe is repeated for `probe_window_s`.
    A server that accepts connections may take `answer_s` to respond, as its clients wait that long."""

    heal_on: HealOn = "dead"
    probe_window_s: float = 20.0
    answer_s: float = 120.0
    renew_before_h: float = 0.0
    renew_certificate_before_d: float = 10.0


def from_state(contract: Contract, observation: Observation) -> Drift | None:
    """Return the drift that the API reports; None if the container runs and its port is mapped."""
    if observation.failure is not None:
        kind = KINDS.get(observation.failure.sign, "not-running")
        return Drift(kind, f"instance {contract.id}: {observation.failure.text}")
    if observation.is_away:
        return Drift("offline", f"instance {contract.id}: the host is {contract.actual_status}")
    if observation.port is None:
        status, progress = contract.actual_status or "being provisioned", observation.progress[:120]
        return Drift("not-running", f"instance {contract.id} is {status}, with no address ({progress})")
    return None


def from_move(contract: Contract, observation: Observation, outs: Mapping[str, Json]) -> Drift | None:
    """Return the drift of a changed IP, as a certificate is valid for one IP."""
    ip, old_ip = observation.ip, outs.get("ip")
    if outs.get("certificate_expires_at") and old_ip and observation.port is not None and ip != old_ip:
        reason = f"instance {contract.id} moved from {old_ip} to {ip}, and its certificate is not for that IP"
        return Drift(_certificate_kind(outs), reason)
    return None


def from_probe(contract: Contract, observation: Observation, result: ProbeResult) -> Drift | None:
    """Return the drift that a probe of the server shows."""
    where = f"instance {contract.id} at {observation.ip}:{observation.port}"
    if result.verdict == "ready":
        return None
    if result.verdict == "no_answer":
        return Drift("unreachable", f"{where} runs, says the API, but cannot be reached from here: {result.detail}")
    if result.verdict == "busy":
        return Drift("engine-dead", f"{where} takes connections, but its server hangs: {result.detail}")
    return Drift("engine-dead", f"{where} runs but does not serve: {result.detail}")


def from_terms(
    contract: Contract,
    observation: Observation,
    outs: Mapping[str, Json],
    watch: Watch,
    *,
    now: float,
    announced_dph_usd: float | None = None,
) -> list[Drift]:
    """Compare address, image, command, label, price and end of a serving instance with the recorded outputs."""
    drifts = [*expiry_drifts(outs, contract.end_date, watch, now)]
    ip, port = observation.ip, observation.port
    if outs.get("ip") and port is not None and (ip, port) != (outs["ip"], int(outs.get("port") or 0)):
        drifts.append(Drift("address", f"moved from {outs['ip']}:{outs.get('port'):.0f} to {ip}:{port}"))
    if contract.image and outs.get("image_uuid") and contract.image != outs["image_uuid"]:
        drifts.append(Drift("image", f"instance {contract.id} runs {contract.image}, not {outs['image_uuid']}"))
    if outs.get("command_digest") and contract.command_digest not in ("", outs["command_digest"]):
        drifts.append(Drift("command", f"the command of instance {contract.id} is not the one it was rented with"))
    if outs.get("label") and contract.label != outs["label"]:
        drifts.append(Drift("label", f"the label is {contract.label!r}, not {outs['label']!r}"))
    price_usd, old_price_usd = contract.dph_total_usd, float(outs.get("dph_total_usd") or 0.0)
    if old_price_usd and price_usd > old_price_usd * (1 + PRICE_TOLERANCE):
        drifts.append(Drift("price", f"now ${price_usd:.4f}/h, was ${old_price_usd:.4f}/h when it was rented"))
    if announced_dph_usd is not None:
        drifts.append(Drift("price", f"the host announces ${announced_dph_usd:.4f}/h, now ${price_usd:.4f}/h"))
    return drifts


def expiry_drifts(outs: Mapping[str, Json], end_date: float, watch: Watch, now: float) -> Iterator[Drift]:
    """Yield a drift for a certificate and for a contract that ends too soon."""
    ends = float(outs.get("certificate_expires_at") or 0.0)
    if ends and ends - now < watch.renew_certificate_before_d * 86400:
        yield Drift(_certificate_kind(outs), f"it ends in {max(ends - now, 0) / 86400:.0f} days")
    left_s = end_date - now
    if watch.renew_before_h and end_date and left_s < watch.renew_before_h * 3600:
        yield Drift("ending", f"the contract ends in {minutes(max(left_s, 0))}")


def _certificate_kind(outs: Mapping[str, Json]) -> str:
    return "renewal" if outs.get("certificate_path") else "certificate"
