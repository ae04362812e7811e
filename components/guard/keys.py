"""Access control: the management key, and the clients' named keys with expiry, routes and rates. Client keys may also
need a client certificate. Used by `gate`."""

from __future__ import annotations

import hmac
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from .rules import ALLOW, Refusal

MAX_KEYS = 32
MANAGEMENT = "management"
CLIENT = b"x-guard-client"  # the client's name; a gateway sends it with the management key
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_NUMBER = 1e10
NO_CERTIFICATE = "a client certificate by a CA of client_ca is needed beside the key: show it in the TLS handshake"


@dataclass(frozen=True)
class Key:
    """A client key's SHA-256 and its limits. Keys with the same name share its rates; a rotation has two. With an empty
    `sha256` no key matches: only a gateway can use the name."""

    name: str
    sha256: str
    expires_at: float | None = None
    requests_per_s: float | None = None
    pairs_per_min: float | None = None
    routes: tuple[str, ...] | None = None

    @property
    def manages(self) -> bool:
        return self.name == MANAGEMENT


@dataclass(frozen=True)
class Access:
    """The client keys. With a `client_ca` (PEM) clients also need a certificate signed by one of these CAs."""

    keys: tuple[Key, ...] = ()
    client_ca: str = ""

    def is_same(self, other: Access) -> bool:
        """Compare without the order of the keys."""
        return {*self.keys} == {*other.keys} and self.client_ca == other.client_ca


@dataclass
class Bucket:
    """A token bucket, refilled by `per_s` up to `size`. A full bucket admits a request that needs more than `size`."""

    available: float
    at: float

    def take(self, amount: float, per_s: float, size: float, now: float) -> float:
        """Take an amount and return 0, or take nothing and return the seconds until it is available."""
        self.available, self.at = min(size, self.available + (now - self.at) * per_s), now
        missing = min(amount, size) - self.available
        if missing > 0:
            return missing / per_s
        self.available -= amount
        return 0.0


@dataclass
class KeyStore:
    """The valid keys. They are stored in a file and survive a restart of the container."""

    management: str = field(repr=False)
    file: Path | None = None
    now: Callable[[], float] = field(kw_only=True)
    access: Access = Access()
    buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.management_key = Key(MANAGEMENT, sha256(self.management.encode()).hexdigest())
        if self.file is not None and self.file.exists():
            self.access = parse(self.file.read_bytes())

    def find(self, presented: list[str], client: list[str] = [], *, certified: bool = False) -> Key:  # noqa: B006
        """Return the key for a request's Authorization values. With the management key and a `client` name, return this
        client's key. `certified`: the connection has a client certificate; the management key needs none.
        Raises Refusal."""
        scheme, _, secret = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        digest = sha256(secret.encode("latin-1")).hexdigest()
        keys = [self.management_key, *self.access.keys] if self.management else self.access.keys
        # compare with every key in constant time: the time must not tell which key matched, or how many characters
        matches = [key for key in keys if hmac.compare_digest(digest, key.sha256)]
        is_manager = matches[:1] == [self.management_key]
        if client and is_manager:
            matches = [key for key in self.access.keys if [key.name] == client]
        if scheme.lower() != "bearer" or not matches or (matches[0].expires_at or math.inf) <= self.now():
            raise Refusal(401, "a valid key is needed: Authorization: Bearer <key>")
        if self.access.client_ca and not (is_manager or certified):
            raise Refusal(403, NO_CERTIFICATE)
        return matches[0]

    def count(self, key: Key, *, pairs: int = 0) -> None:
        """Count a request, or its pairs, against the rate of the key's name. Raises Refusal above the rate."""
        rate = key.pairs_per_min if pairs else key.requests_per_s
        if rate is None:
            return
        unit, per_s, size = ("pairs", rate / 60, rate) if pairs else ("requests", rate, max(rate, 1.0))
        now = self.now()
        bucket = self.buckets.setdefault((key.name, unit), Bucket(size, now))
        if wait_s := bucket.take(pairs or 1, per_s, size, now):
            period = "minute" if pairs else "second"
            raise Refusal(429, f"the key {key.name} is limited to {rate:g} {unit} per {period}", math.ceil(wait_s))

    def set(self, access: Access) -> None:
        self.access = access
        if self.file is not None:
            new_file = self.file.with_suffix(".new")
            new_file.write_text(json.dumps(asdict(access)))
            new_file.replace(self.file)


def parse(body: bytes) -> Access:
    """Parse {"keys": [...], "client_ca": "..."}; client_ca is optional. Raises Refusal."""
    try:
        raw = json.loads(body)
        raw_keys, client_ca = raw["keys"], raw.get("client_ca", "")
        if not isinstance(raw_keys, list) or not isinstance(client_ca, str):
            raise TypeError("keys is not a list, or client_ca is not a string")
        keys = tuple(map(_parse_key, raw_keys))
        if len(keys) > MAX_KEYS or len({key.sha256 or key.name for key in keys}) < len(keys):
            raise ValueError(f"more than {MAX_KEYS} keys, or a duplicate")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        names = ", ".join(field.name for field in fields(Key))
        text = f'accepted: {{"keys": [...]}}, up to {MAX_KEYS} objects of {names}: {type(error).__name__} {error}'
        raise Refusal(400, text[:300]) from None
    return Access(keys, client_ca)


def _parse_key(raw: dict[str, Any]) -> Key:
    routes = raw.get("routes")
    key = Key(**raw | {"routes": None if routes is None else tuple(routes)})
    if not NAME.fullmatch(key.name) or key.name == MANAGEMENT or not (key.sha256 == "" or DIGEST.fullmatch(key.sha256)):
        raise ValueError("name or sha256 (hex) is not valid")
    if not set(key.routes or ()) <= set(ALLOW):
        raise ValueError(f"routes are among {', '.join(ALLOW)}")
    numbers: tuple[Any, ...] = (key.expires_at, key.requests_per_s, key.pairs_per_min)
    for number in numbers:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if number is not None and not (is_number and 0 < number < MAX_NUMBER):
            raise ValueError("expires_at and rates are numbers above 0")
    return key
