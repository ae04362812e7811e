"""Records for a rental: its input (container, deadlines, bid) and its result.

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

    `key_env`: the variable for the instance's management key, derived from `stack_secret`; "" for none. `authority`
    signs a certificate for the instance's name and IP. `certificate_path`: the route to load a new certificate into
    the running server; "" for none. `files`: digests by file name; `pack` returns the variables that contain the files.
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
        """Return 12 hex digits that change if the container must be replaced, secrets included.
        The stack's secret is the key of the digest, so that a label reveals nothing."""
        parts = {item.name: getattr(self, item.name) for item in fields(self) if item.compare}
        parts |= {
            "env": dict(self.env),
            "files": dict(self.files),
            "disk_gb": float(self.disk_gb),
            "authority": self.authority.certificate if self.authority else None,
        }
        return digest(parts, self.stack_secret)

    def env_for(self, nonce: str) -> dict[str, str]:
        """Return the environment of the instance with this nonce, without files and certificate."""
        return {**self.env, **({self.key_env: own_key(self.stack_secret, nonce)} if self.key_env else {})}

    def identity(self, ip: str, nonce: str) -> Identity | None:
        """Make the identity of the instance at this IP; None without TLS. Raises ValueError for an invalid IP."""
        if self.authority is None:
            return None
        days = LEAF_DAYS if self.certificate_path else FIXED_LEAF_DAYS
        return self.authority.issue(ip, server_name(nonce), days=days)

    def secrets(self) -> list[str]:
        return [*self.env.values(), *(self.image_login or "").split()]

    def body(self, label: Label, *, bid_usd: float | None = None, identity: Identity | None = None) -> dict[str, Json]:
        """Return the JSON body of `PUT /api/v0/asks/{id}/`. `cancel_unavail`: fail if the machine is busy."""
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
    """The maximum time of each stage, and of a stage without progress (`stall_s`), in seconds."""

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
    """A machine that failed, or an offer that could not be rented, and the reason."""

    machine_id: int
    offer_id: int
    reason: str
    after_s: float


def rejection_report(rejected: Sequence[Rejected], max_tries: int, next_step: str) -> str:
    """Return the reason for each rejected candidate, and the next step."""
    if not rejected:
        return "no candidate could be rented: the offers are gone and a new search found none"
    lines = [
        f"  machine {item.machine_id}{f' after {minutes(item.after_s)}' if item.after_s else ''}: {item.reason}"
        for item in rejected
    ]
    tried = f"{len(rejected)} of at most {max_tries} candidates were tried, none serves"
    return "\n".join([f"{tried}; nothing is left rented:", *lines, f"next: {next_step}"])


@dataclass(frozen=True)
class Rented:
    """The result of a rental: the serving contract, its address, and the rejected candidates."""

    contract: Contract
    ip: str
    port: int
    candidate: Candidate | None
    adopted: bool
    ready_s: float
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Order:
    """The container to rent, and the limits of the rental."""

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
    """The bid for an interruptible instance: `price_usd`, or the minimum bid times `factor`; at most `cap_usd`."""

    price_usd: float | None = None
    factor: float = 1.25
    cap_usd: float | None = None

    def price_for(self, offer: Offer) -> float:
        price = offer.min_bid_usd * self.factor if self.price_usd is None else self.price_usd
        return round(price if self.cap_usd is None else min(price, self.cap_usd), 5)

    def price_warning(self, offer: Offer, on_demand_usd: float | None) -> str:
        """Return a warning if the bid costs more than an on-demand instance, or ""."""
        usd = self.price_for(offer) + offer.dph_total_usd - offer.min_bid_usd  # with the disk, as in `dph_total_usd`
        if on_demand_usd is None or usd <= on_demand_usd:
            return ""
        return (
            f"the bid costs ${usd:.4f}/h, and may be outbid; on demand, a machine that fits costs "
            f"${on_demand_usd:.4f}/h: remove `bid`, or lower it"
        )
