"""The container to run on a rented machine, and the deadlines of its boot. Built by the Instance resource."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from components.vast.identity import Authority, Identity
from components.vast.json_values import Json
from components.vast.label import Label


@dataclass(frozen=True)
class Spec:
    """A container: image, command, environment, ports, disk. `env` and `image_login` are secret and not in the repr.

    With an `authority` each container also gets an identity of its own, signed for the IP of its offer. `files` are
    digests of files by name, and `pack` returns the environment that carries them.
    """

    image: str
    disk_gb: float
    runtype: str = "args"
    onstart: str | None = None
    args: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    image_login: str | None = field(default=None, repr=False)
    authority: Authority | None = field(default=None, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
    pack: Callable[[], Mapping[str, str]] = field(default=dict, repr=False, compare=False)

    def digest(self) -> str:
        """Return 12 hex digits that change with anything that needs a new container, secrets included."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        parts |= {
            "env": dict(self.env),
            "files": dict(self.files),
            "disk_gb": float(self.disk_gb),
            "authority": self.authority.certificate if self.authority else None,
        }
        content = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def secrets(self) -> list[str]:
        return [*self.env.values(), *(self.image_login or "").split()]

    def body(self, label: Label, *, bid_usd: float | None = None, identity: Identity | None = None) -> dict[str, Json]:
        """Return the JSON for `PUT /api/v0/asks/{id}/`; `cancel_unavail` refuses to queue for a busy machine."""
        env: dict[str, str] = {f"-p {mapping}": "1" for mapping in self.ports}
        body: dict[str, Json] = {
            "client_id": "me",
            "image": self.image,
            "env": {**env, **self.env, **self.pack(), **(identity.env() if identity else {})},
            "disk": float(self.disk_gb),
            "label": str(label),
            "runtype": self.runtype,
            "args": list(self.args),
            "cancel_unavail": True,
            "target_state": "running",
        }
        optional = {"onstart": self.onstart, "image_login": self.image_login, "user": self.user, "price": bid_usd}
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
