"""Keys and the certificate authority of a stack, created once and stored as secrets. Used by RerankerFleet."""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from components.plugin.verbs import VastResource
from components.vast.identity import FIXED_LEAF_DAYS, Authority, expiry, signing_certificate

KEY_BYTES = 32
DAY_S = 86400.0
# An authority stops signing before a certificate could outlive it.
SWITCH_BEFORE_S = (FIXED_LEAF_DAYS + 3) * DAY_S
OVERLAP_S = 90 * DAY_S  # clients trust the next authority for this time before it signs


class ApiKeyProvider(ResourceProvider):
    """Makes a random key without any API; the key changes only with its generation."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), {**props, "value": secrets.token_hex(KEY_BYTES), "previous": ""})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        drop_previous = bool(olds.get("previous")) and not news.get("keep_previous")
        return DiffResult(changes=_generation(olds) != _generation(news) or drop_previous)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        value, previous = olds["value"], olds.get("previous") or ""
        if _generation(olds) != _generation(news):
            value, previous = secrets.token_hex(KEY_BYTES), value
        return UpdateResult({**news, "value": value, "previous": previous if news.get("keep_previous") else ""})


class ApiKey(VastResource, name="ApiKey"):
    """An API key: `value`, 64 hex digits, secret in state; `previous` is the previous key, or empty.

    A new `generation` makes a new key; with `keep_previous` the previous key stays in the state.
    """

    value: pulumi.Output[str]
    previous: pulumi.Output[str]

    def __init__(
        self, name: str, opts: pulumi.ResourceOptions | None = None, *, generation: int = 1, keep_previous: bool = False
    ) -> None:
        inputs = {"generation": generation, "keep_previous": keep_previous}
        super().__init__(ApiKeyProvider(), name, inputs, opts, secret=("value", "previous"))


class CertificateAuthorityProvider(ResourceProvider):
    """Makes a certificate authority, and long before its end the next one: clients trust it before it signs."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), new_authority(props, time.time()))

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Ignore the name: it stays the same when the stack is renamed."""
        return DiffResult(changes=bool(authority_step(olds, news, time.time())))

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(advance_authority(olds, news, time.time()))


def new_authority(props: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the outputs of a new authority. `next`: the authority that signs later; `trusted`: earlier authorities."""
    return {**props, **_make(props, now), "next": {}, "trusted": []}


def authority_step(
    olds: Mapping[str, Any], news: Mapping[str, Any], now: float
) -> Literal["", "announce", "switch", "forget"]:
    """Return the due step: publish the next authority, sign with it, or remove ended authorities."""
    remaining_s = float(olds.get("expires_at") or 0.0) - now
    may_sign = {*(news.get("permitted") or ())} <= {*(olds.get("permitted") or ())}
    if not may_sign or remaining_s < SWITCH_BEFORE_S:
        return "switch"
    if remaining_s < SWITCH_BEFORE_S + OVERLAP_S and not olds.get("next"):
        return "announce"
    return "forget" if any(float(ca["expires_at"]) < now for ca in olds.get("trusted") or ()) else ""


def advance_authority(olds: Mapping[str, Any], news: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the outputs after the due step. `certificate`: the signing one first, then the other trusted ones."""
    step, outs = authority_step(olds, news, now), {**olds, **news, "common_name": olds["common_name"]}
    signer = {key: olds[key] for key in ("certificate", "private_key", "expires_at", "permitted")}
    signer["certificate"] = signing_certificate(signer["certificate"])
    successor, trusted = olds.get("next") or {}, [ca for ca in olds.get("trusted") or () if ca["expires_at"] > now]
    if step == "announce":
        successor = _make(news, now)
    elif step == "switch":
        trusted.append({key: signer[key] for key in ("certificate", "expires_at")})
        added = {*(news.get("permitted") or ())} - {*(olds.get("permitted") or ())}
        signer, successor = _make(news, now) if added or not successor else successor, {}
    bundle = "".join(f"{ca['certificate'].strip()}\n" for ca in (signer, successor, *trusted) if ca)
    return {**outs, **signer, "certificate": bundle, "next": successor, "trusted": trusted}


def _make(props: Mapping[str, Any], now: float) -> dict[str, Any]:
    permitted = list(props.get("permitted") or ())
    ca = Authority.make(props["common_name"], permitted, now=datetime.datetime.fromtimestamp(now, datetime.UTC))
    outs = {"certificate": ca.certificate, "private_key": ca.private_key, "expires_at": expiry(ca.certificate)}
    return outs | {"permitted": permitted}


class CertificateAuthority(VastResource, name="CA"):
    """The stack's own authority: `certificate` (PEM, public: all trusted certificates, the signing one first),
    `private_key` (PEM, secret) and `expires_at` of the signing one.

    `permitted`: names and addresses besides servers on the internet, see components.vast.identity.
    """

    certificate: pulumi.Output[str]
    private_key: pulumi.Output[str]
    expires_at: pulumi.Output[int]

    def __init__(
        self, name: str, common_name: str, permitted: Sequence[str], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        inputs = {"common_name": common_name, "permitted": permitted}
        super().__init__(CertificateAuthorityProvider(), name, inputs, opts, secret=("private_key", "next"))


class ServerCertificateProvider(ResourceProvider):
    """Signs a certificate for servers with known names, and renews it before it ends."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), self._sign(props))

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """A new certificate is due if the names or the authority change, or if this one ends soon."""
        due = float(olds.get("expires_at") or 0.0) - float(news["renew_before_d"]) * DAY_S
        keys = ("names", "authority")
        return DiffResult(changes=time.time() >= due or any(olds.get(key) != news.get(key) for key in keys))

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(self._sign(news))

    @staticmethod
    def _sign(props: dict[str, Any]) -> dict[str, Any]:
        authority = Authority(props["authority"]["certificate"], props["authority"]["private_key"])
        certificate, private_key = authority.issue(*props["names"]).pem()
        return {**props, "certificate": certificate, "private_key": private_key, "expires_at": expiry(certificate)}


class ServerCertificate(VastResource, name="Certificate"):
    """A certificate of a server that is not rented: `certificate`, `private_key` (PEM, secret), `expires_at`."""

    certificate: pulumi.Output[str]
    private_key: pulumi.Output[str]
    expires_at: pulumi.Output[int]

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        authority: Mapping[str, pulumi.Input[str]],
        renew_before_d: float,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {"names": names, "authority": authority, "renew_before_d": renew_before_d}
        super().__init__(ServerCertificateProvider(), name, inputs, opts, secret=("authority", "private_key"))


def _generation(props: dict[str, Any]) -> int:
    return int(props.get("generation") or 1)
