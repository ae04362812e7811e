"""Keys and the certificate authority that the stack makes once and keeps as secrets. Used by the Reranker component."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from components.plugin.verbs import VastResource
from components.vast.identity import Authority, expiry

KEY_BYTES = 32
RENEW_AUTHORITY_BEFORE_S = 450 * 86400  # longer than any certificate that it signs lasts


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


class ApiKey(VastResource, module="vast", name="ApiKey"):
    """An API key: `value`, 64 hex digits, secret in state; `previous` is the one before, or empty.

    Another `generation` makes another key; `keep_previous` says whether the one before stays on record.
    """

    value: pulumi.Output[str]
    previous: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        opts: pulumi.ResourceOptions | None = None,
        *,
        generation: int = 1,
        keep_previous: bool = False,
    ) -> None:
        inputs = {"generation": generation, "keep_previous": keep_previous}
        super().__init__(ApiKeyProvider(), name, inputs, opts, secret=("value", "previous"))


class CertificateAuthorityProvider(ResourceProvider):
    """Makes a certificate authority; renews it long before it ends."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        made = Authority.make(props["common_name"])
        outs = {"certificate": made.certificate, "private_key": made.private_key}
        return CreateResult(secrets.token_hex(4), {**props, **outs, "expires_at": expiry(made.certificate)})

    def diff(self, _id: str, olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Replace an authority that would end before a certificate that it signs today; its name is a name only, and
        stays as it was where the stack is renamed."""
        left_s = float(olds.get("expires_at") or 0.0) - time.time()
        replaces = ["expires_at"] if left_s < RENEW_AUTHORITY_BEFORE_S else []
        return DiffResult(changes=bool(replaces), replaces=replaces)


class CertificateAuthority(VastResource, module="vast", name="CertificateAuthority"):
    """The stack's own authority: `certificate` (PEM, public: what clients trust), `private_key` (PEM, secret)."""

    certificate: pulumi.Output[str]
    private_key: pulumi.Output[str]
    expires_at: pulumi.Output[int]

    def __init__(self, name: str, common_name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        inputs = {"common_name": common_name}
        super().__init__(CertificateAuthorityProvider(), name, inputs, opts, secret=("private_key",))


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


class ServerCertificate(VastResource, module="vast", name="ServerCertificate"):
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
