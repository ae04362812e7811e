"""Input and result of a rental, as records: the container to run, the deadlines of its boot, a bid; what came of it.

Built by the Instance resource, used by `rental` and `attempt`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from components.vast.identity import FIXED_LEAF_DAYS, LEAF_DAYS, Authority, Identity, own_key, server_name
from components.vast.json_values import Json, digest
from components.vast.label import Label
from components.vast.models import Contract, Offer
from components.vast.ranking import Candidate, minutes


@dataclass(frozen=True)
class Spec:
    """A container: image, command, environment, ports, disk. `env` and `image_login` are secret and not in the repr.

    Each container gets a key of its own in the variable `key_env`, if that is named, by the stack's secret; with an
    `authority` also an identity, signed for the IP of its offer and a name of its own. `certificate_path`: where it
    takes another certificate while it runs; empty for nowhere. `files` are digests of files by name, and `pack` returns
    the environment that carries them.
    """

    image: str
    disk_gb: float
    onstart: str | None = None
    args: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_login: str | None = field(default=None, repr=False)
    key_env: str = ""
    stack_secret: str = field(default="", repr=False, compare=False)
    authority: Authority | None = field(default=None, repr=False)
    certificate_path: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    pack: Callable[[], Mapping[str, str]] = field(default=dict, repr=False, compare=False)

    def digest(self) -> str:
        """Return 12 hex digits that change with anything that needs a new container, secrets included.

        Keyed by the stack's secret: whoever reads a label can guess nothing of what is in it.
        """
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        parts |= {
            "env": dict(self.env),
            "files": dict(self.files),
            "disk_gb": float(self.disk_gb),
            "authority": self.authority.certificate if self.authority else None,
        }
        return digest(parts, self.stack_secret)

    def env_for(self, nonce: str) -> dict[str, str]:
        """Return the environment of the instance whose label has this nonce, without files and certificate."""
        return {**self.env, **({self.key_env: own_key(self.stack_secret, nonce)} if self.key_env else {})}

    def identity(self, ip: str, nonce: str) -> Identity | None:
        """Return the identity of the instance at this IP; None without TLS. Raises ValueError for what is no IP."""
        if self.authority is None:
            return None
        days = LEAF_DAYS if self.certificate_path else FIXED_LEAF_DAYS
        return self.authority.issue(ip, server_name(nonce), days=days)

    def secrets(self) -> list[str]:
        return [*self.env.values(), *(self.image_login or "").split()]

    def body(self, label: Label, *, bid_usd: float | None = None, identity: Identity | None = None) -> dict[str, Json]:
        """Return the JSON for `PUT /api/v0/asks/{id}/`; `cancel_unavail` refuses to queue for a busy machine."""
        env: dict[str, str] = {f"-p {mapping}": "1" for mapping in self.ports}
        body: dict[str, Json] = {
            "client_id": "me",
            "image": self.image,
            "env": {**env, **self.env_for(label.nonce), **self.pack(), **(identity.env() if identity else {})},
            "disk": float(self.disk_gb),
            "label": str(label),
            "runtype": "args",
            "args": list(self.args),
            "cancel_unavail": True,
            "target_state": "running",
        }
        optional = {"onstart": self.onstart, "image_login": self.image_login, "price": bid_usd}
        return body | {key: value for key, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Deadlines:
    """How long each stage may take, in seconds, and how long progress may stand still (`stall_s`)."""

    rented_s: float = 180.0
    pulling_s: float = 1800.0
    starting_s: float = 300.0
    port_s: float = 180.0
    serving_s: float = 900.0
    stall_s: float = 420.0

    def of(self, stage: str) -> float:
        return float(getattr(self, f"{stage}_s"))


@dataclass(frozen=True)
class Rejected:
    """A machine that was tried, or an offer that was lost, and why."""

    machine_id: int
    offer_id: int
    reason: str
    after_s: float


def rejections(rejected: Sequence[Rejected], max_tries: int, next_step: str) -> str:
    """Return what happened to each candidate, where none serves, and what to do next."""
    if not rejected:
        return "no candidate could be rented: the offers found are gone and a new search found none"
    lines = [
        f"  machine {one.machine_id}{f' after {minutes(one.after_s)}' if one.after_s else ''}: {one.reason}"
        for one in rejected
    ]
    counted = f"{len(rejected)} of at most {max_tries} candidates were tried, none serves"
    return "\n".join([f"{counted}; nothing is left rented:", *lines, f"next: {next_step}"])


@dataclass(frozen=True)
class Rented:
    """What serves now, and what it took."""

    contract: Contract
    ip: str
    port: int
    candidate: Candidate | None
    adopted: bool
    ready_s: float
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Order:
    """What to rent and how long to try."""

    spec: Spec
    label: Label
    container_port: int
    deadlines: Deadlines = field(default_factory=Deadlines)
    max_tries: int = 5
    poll_s: float = 5.0
    resolve_s: float = 20.0
    bid: Bid | None = None
    hedge: int = 1
    adopt_instance_id: int | None = None
    spec_fault_logs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bid:
    """What to offer for an interruptible instance: a price, or the floor times `factor`; never over `cap_usd`."""

    price_usd: float | None = None
    factor: float = 1.25
    cap_usd: float | None = None

    def price_for(self, offer: Offer) -> float:
        price = offer.min_bid_usd * self.factor if self.price_usd is None else self.price_usd
        return round(price if self.cap_usd is None else min(price, self.cap_usd), 5)

    def price_warning(self, offer: Offer, on_demand_usd: float | None) -> str:
        """Return a warning where the bid pays more than what cannot be outbid costs, or ""."""
        pays_usd = (
            self.price_for(offer) + offer.dph_total_usd - offer.min_bid_usd
        )  # with the disk, as an offer's total is
        if on_demand_usd is None or pays_usd <= on_demand_usd:
            return ""
        return (
            f"the bid pays ${pays_usd:.4f}/h, and may be outbid; on demand, a machine that fits costs "
            f"${on_demand_usd:.4f}/h: take `bid` out, or lower it"
        )
