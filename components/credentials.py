"""Keys and the certificate authority that the stack makes once and keeps as secrets. Used by the Reranker component."""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from components.plugin.verbs import VastResource
from components.vast.identity import FIXED_LEAF_DAYS, Authority, expiry, signer_of

KEY_BYTES = 32
DAY_S = 86400.0
# An authority signs until what it signs would outlast it; so long before, clients get the next one to trust beside it.
SWITCH_BEFORE_S = (FIXED_LEAF_DAYS + 3) * DAY_S
OVERLAP_S = 90 * DAY_S


class ApiKeyProvider(ResourceProvider):
    """Makes a random key; needs no API, and keeps the key until its generation changes."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), {**props, "value": secrets.token_hex(KEY_BYTES), "previous": ""})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        forget = bool(olds.get("previous")) and not news.get("keep_previous")
        return DiffResult(changes=_generation(olds) != _generation(news) or forget)

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        value, previous = olds["value"], olds.get("previous") or ""
        if _generation(olds) != _generation(news):
            value, previous = secrets.token_hex(KEY_BYTES), value
        return UpdateResult({**news, "value": value, "previous": previous if news.get("keep_previous") else ""})


class ApiKey(VastResource, name="ApiKey"):
    """An API key: `value`, 64 hex digits, secret in state; `previous` is the one before, or empty.

    Another `generation` makes another key; `keep_previous` says whether the one before stays on record.
    """

    value: pulumi.Output[str]
    previous: pulumi.Output[str]

    def __init__(
        self, name: str, opts: pulumi.ResourceOptions | None = None, *, generation: int = 1, keep_previous: bool = False
    ) -> None:
        inputs = {"generation": generation, "keep_previous": keep_previous}
        super().__init__(ApiKeyProvider(), name, inputs, opts, secret=("value", "previous"))


class CertificateAuthorityProvider(ResourceProvider):
    """Makes a certificate authority, and the next one long before it ends: clients trust both before that one signs."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), new_authority(props, time.time()))

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Its name is a name only, and stays as it was where the stack is renamed."""
        return DiffResult(changes=bool(authority_step(olds, news, time.time())))

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(advance_authority(olds, news, time.time()))


def new_authority(props: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the outputs of an authority that is new. `next`: the one that will sign; `trusted`: those that did."""
    return {**props, **_made(props, now), "next": {}, "trusted": []}


def authority_step(
    olds: Mapping[str, Any], news: Mapping[str, Any], now: float
) -> Literal["", "announce", "switch", "forget"]:
    """Return what is due: to have the next authority trusted, to sign with it, to forget the one before."""
    left_s = float(olds.get("expires_at") or 0.0) - now
    if not {*(news.get("permitted") or ())} <= {*(olds.get("permitted") or ())}:
        return "switch"  # what is to be signed now, this one may not sign
    if left_s < SWITCH_BEFORE_S:
        return "switch"
    if left_s < SWITCH_BEFORE_S + OVERLAP_S and not olds.get("next"):
        return "announce"
    ended = [one for one in olds.get("trusted") or () if float(one["expires_at"]) < now]
    return "forget" if ended else ""


def advance_authority(olds: Mapping[str, Any], news: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the outputs after what is due. `certificate`: the one that signs, then what clients trust besides."""
    step, outs = authority_step(olds, news, now), {**olds, **news, "common_name": olds["common_name"]}
    signs = {key: olds[key] for key in ("certificate", "private_key", "expires_at", "permitted")}
    signs["certificate"] = signer_of(signs["certificate"])
    following, trusted = olds.get("next") or {}, [one for one in olds.get("trusted") or () if one["expires_at"] > now]
    if step == "announce":
        following = _made(news, now)
    elif step == "switch":
        trusted.append({key: signs[key] for key in ("certificate", "expires_at")})
        wider = {*(news.get("permitted") or ())} - {*(olds.get("permitted") or ())}
        signs, following = _made(news, now) if wider or not following else following, {}
    also = [one["certificate"] for one in (following, *trusted) if one]
    bundle = "".join(f"{one.strip()}\n" for one in (signs["certificate"], *also))
    return {**outs, **signs, "certificate": bundle, "next": following, "trusted": trusted}


def _made(props: Mapping[str, Any], now: float) -> dict[str, Any]:
    at = datetime.datetime.fromtimestamp(now, datetime.UTC)
    made = Authority.make(props["common_name"], props.get("permitted") or (), now=at)
    outs = {"certificate": made.certificate, "private_key": made.private_key, "expires_at": expiry(made.certificate)}
    return outs | {"permitted": list(props.get("permitted") or ())}


class CertificateAuthority(VastResource, name="CA"):
    """The stack's own authority: `certificate` (PEM, public: what clients trust, the one that signs first),
    `private_key` of that one (PEM, secret), `expires_at` of that one.

    `permitted`: what it may sign besides servers on the internet, see components.vast.identity.
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
    """Signs a certificate for servers whose names are known, and renews it before it ends."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(secrets.token_hex(4), self._signed(props))

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Say that another certificate is due: other names, another authority, or this one ends soon."""
        due = float(olds.get("expires_at") or 0.0) - float(news.get("renew_before_d") or 30.0) * 86400
        keys = ("names", "authority")
        return DiffResult(changes=time.time() >= due or any(olds.get(key) != news.get(key) for key in keys))

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(self._signed(news))

    @staticmethod
    def _signed(props: dict[str, Any]) -> dict[str, Any]:
        authority = Authority(props["authority"]["certificate"], props["authority"]["private_key"])
        certificate, private_key = authority.issue(*props["names"]).pem()
        return {**props, "certificate": certificate, "private_key": private_key, "expires_at": expiry(certificate)}


class ServerCertificate(VastResource, name="Certificate"):
    """A certificate for a server that is not rented here: `certificate`, `private_key` (PEM, secret), `expires_at`."""

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
