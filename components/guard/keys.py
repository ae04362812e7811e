"""Who may ask: the stack's management key and the clients' named keys, with end, routes and rates, and whether their
clients have to show a certificate. Used by `gate`."""

from __future__ import annotations

import hmac
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from .rules import ALLOW, Refusal

MAX_KEYS = 32
MANAGEMENT = "management"
CLIENT = b"x-guard-client"  # whose request it is that comes by the management key: a gateway's word
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_NUMBER = 1e10
NO_CERTIFICATE = "a client certificate by a CA of client_ca is needed beside the key: show it in the TLS handshake"


@dataclass(frozen=True)
class Key:
    """A key by the SHA-256 of it. Several may have one name, as while one is rotated: they share its rates. With an
    empty one no key opens anything: the name is for what a gateway passes on."""

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
    """The clients' keys, and with a `client_ca` (PEM) whose certificates show that it is the client who has one."""

    keys: tuple[Key, ...] = ()
    client_ca: str = ""

    def is_same(self, other: Access) -> bool:
        """Whether it admits the same, in whatever order the keys are."""
        return {*self.keys} == {*other.keys} and self.client_ca == other.client_ca


@dataclass
class Bucket:
    """What is left of a rate: filled by `per_s`, up to `size`. A full one lets a request through that takes more."""

    left: float
    at: float

    def take(self, amount: float, per_s: float, size: float, now: float) -> float:
        """Take an amount and return 0, or take nothing and return the seconds until it is there."""
        self.left, self.at = min(size, self.left + (now - self.at) * per_s), now
        missing = min(amount, size) - self.left
        if missing > 0:
            return missing / per_s
        self.left -= amount
        return 0.0


@dataclass
class KeyStore:
    """The keys that are valid, kept in a file so that they outlive a restart of the container."""

    management: str = field(repr=False)
    file: Path | None = None
    now: Callable[[], float] = field(kw_only=True)
    access: Access = Access()
    buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.own = Key(MANAGEMENT, sha256(self.management.encode()).hexdigest())
        if self.file is not None and self.file.exists():
            self.access = parse(self.file.read_bytes())

    def find(self, presented: list[str], client: list[str] = [], *, certified: bool = False) -> Key:  # noqa: B006
        """Return the key that the values of a request's Authorization headers show; by the management key that of the
        `client` named beside it, if one is. `certified`: by a client's certificate as well, which the management key
        does without. Raises Refusal."""
        scheme, _, secret = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        digest = sha256(secret.encode("latin-1")).hexdigest()
        known = [self.own, *self.access.keys] if self.management else self.access.keys
        # every key is compared, in constant time: neither which one nor how much of it matched can be measured
        valid = [one for one in known if hmac.compare_digest(digest, one.sha256)]
        managed = valid[:1] == [self.own]
        if client and managed:
            valid = [one for one in self.access.keys if [one.name] == client]
        if scheme.lower() != "bearer" or not valid or (valid[0].expires_at or math.inf) <= self.now():
            raise Refusal(401, "a valid key is needed: Authorization: Bearer <key>")
        if self.access.client_ca and not (managed or certified):
            raise Refusal(403, NO_CERTIFICATE)
        return valid[0]

    def count(self, key: Key, *, pairs: int = 0) -> None:
        """Count a request, or its pairs, against the rates of a key's name. Raises Refusal."""
        rate = key.pairs_per_min if pairs else key.requests_per_s
        if rate is None:
            return
        what, per_s, size = ("pairs", rate / 60, rate) if pairs else ("requests", rate, max(rate, 1.0))
        now = self.now()
        bucket = self.buckets.setdefault((key.name, what), Bucket(size, now))
        if wait_s := bucket.take(pairs or 1, per_s, size, now):
            per = "minute" if pairs else "second"
            raise Refusal(429, f"the key {key.name} takes {rate:g} {what} per {per}", math.ceil(wait_s))

    def set(self, access: Access) -> None:
        """Set who may ask beside the management key."""
        self.access = access
        if self.file is not None:
            made = self.file.with_suffix(".new")
            made.write_text(json.dumps(self.shown()))
            made.replace(self.file)

    def shown(self) -> dict[str, Any]:
        return asdict(self.access)


def parse(body: bytes) -> Access:
    """Return what {"keys": [...], "client_ca": "..."} says; the second may be left out. Raises Refusal."""
    try:
        whole = json.loads(body)
        raw, client_ca = whole["keys"], whole.get("client_ca", "")
        if not isinstance(raw, list) or not isinstance(client_ca, str):
            raise TypeError("keys is no list, or client_ca no text")
        found = tuple(map(_key, raw))
        if len(found) > MAX_KEYS or len({one.sha256 or one.name for one in found}) < len(found):
            raise ValueError(f"more than {MAX_KEYS} keys, or one twice")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        wanted = ", ".join(one.name for one in fields(Key))
        text = f'{{"keys": [...]}}, up to {MAX_KEYS} objects of {wanted}: {type(error).__name__} {error}'
        raise Refusal(400, text[:300]) from None
    return Access(found, client_ca)


def _key(raw: dict[str, Any]) -> Key:
    routes = raw.get("routes")
    key = Key(**raw | {"routes": None if routes is None else tuple(routes)})
    if not NAME.fullmatch(key.name) or key.name == MANAGEMENT or not (key.sha256 == "" or DIGEST.fullmatch(key.sha256)):
        raise ValueError("a name, or a sha256 in hex, is none")
    if not set(key.routes or ()) <= set(ALLOW):
        raise ValueError(f"routes are among {', '.join(ALLOW)}")
    for number in _numbers(key):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < MAX_NUMBER:
            raise ValueError("expires_at and rates are numbers above 0")
    return key


def _numbers(key: Key) -> Iterator[Any]:
    given = (key.expires_at, key.requests_per_s, key.pairs_per_min)
    return (one for one in given if one is not None)
