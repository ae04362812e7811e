"""Gateway: one protected, encrypted address in front of rerankers, as a resource. Caddy balances the requests.

This file translates between Pulumi's verbs and `components.caddy`, which makes the decisions. If rerankers are
replaced, the gateway's update moves requests before Pulumi deletes the old rerankers (docs/gateway.md).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, DiffResult, ReadResult, UpdateResult

from components.caddy import drift
from components.caddy.admin import CaddyAdmin
from components.caddy.config import gateway_config
from components.caddy.spec import Acme, GatewayPolicy, GatewaySpec, Upstream, problems
from components.errors import CaddyUnreachable, GatewayError
from components.plugin.engine import ENGINE
from components.plugin.verbs import VastProvider, VastResource, is_known, verb
from components.readiness import Readiness
from components.records import record, structure
from components.vast.identity import fetch_certificate
from components.vast.json_values import digest, same

SECRETS = ("inbound_keys", "clients", "private_key", "upstreams", "retired", "admin_key", "hop_key")
PATIENCE_S = 10.0  # for a restart of Caddy
POLL_S = 0.5


@dataclass
class GatewayArgs:
    """Listen address, access control and upstreams of the gateway.

    `admin_url`: http://, https:// or unix:// address of the admin API of a Caddy that serves only this gateway;
    `admin_key`, `admin_ca`: for an admin API behind TLS and a key. `rented`: Caddy ends with its machine, so a delete
    needs no Caddy. `site`: unique to the stack, names the server in Caddy's config.
    `upstreams`: `Upstream` records or maps with the same keys, checked by `readiness`; `upstream_ca` (PEM; empty for
    plain HTTP) signs their certificates. `certificate`, `private_key`: PEM; without them the gateway uses plain HTTP,
    or gets certificates by `acme`: within `acme_timeout_s` `url` must then present one signed by `ca_certificate`
    (PEM; empty for public CAs). `drain_timeout_s`: longest wait for requests in flight. `settle_s`: how long their
    count must be 0, since a new request is counted late. `clients`, `client_ca`, `sockets`: see GatewaySpec; the
    default of `sockets` is a name for this gateway.
    """

    site: pulumi.Input[str]
    admin_url: pulumi.Input[str]
    listen: pulumi.Input[str]
    inbound_keys: pulumi.Input[Sequence[pulumi.Input[str]]]
    upstreams: pulumi.Input[Sequence[pulumi.Input[Upstream | Mapping[str, Any]]]]
    readiness: Readiness
    clients: pulumi.Input[Sequence[Mapping[str, str]]] = ()
    client_ca: str = ""
    certificate: pulumi.Input[str] = ""
    private_key: pulumi.Input[str] = ""
    acme: Acme | None = None
    url: pulumi.Input[str] = ""
    ca_certificate: pulumi.Input[str] = ""
    upstream_ca: pulumi.Input[str] = ""
    policy: GatewayPolicy = field(default_factory=GatewayPolicy)
    admin_key: pulumi.Input[str] = ""
    admin_ca: pulumi.Input[str] = ""
    drain_timeout_s: float = 300.0
    settle_s: float = 3.0
    acme_timeout_s: float = 120.0
    rented: bool = False
    sockets: str = ""


INPUTS = tuple(item.name for item in fields(GatewayArgs))


class GatewayProvider(VastProvider):
    """Configures a Caddy as gateway, compares its config, moves its upstreams, removes the config."""

    @verb
    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        # if a dependency has failed there are no upstreams, and the engine skips this resource
        if news.get("upstreams") is None or not all(is_known(news.get(key)) for key in INPUTS):
            return CheckResult(news, [])
        reasons = problems(_spec(news))
        if urlsplit(str(news.get("admin_url"))).scheme not in ("http", "https", "unix"):
            reasons.append("admin_url: accepted: http://, https:// or unix:// followed by an address or a path")
        return CheckResult(news, [CheckFailure("", reason) for reason in reasons])

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Update in place; only another `site` replaces. Drift in Caddy's config is corrected."""
        unknown = [key for key in INPUTS if not is_known(news.get(key))]
        changed = [key for key in INPUTS if key not in unknown and not same(olds.get(key), news.get(key))]
        if difference := str(olds.get("drift") or ""):
            ENGINE.warn(f"will be corrected: {difference}")
        loaded = {key: olds.get(key) for key in ("retired", "hop_key")}
        stale = not unknown and _digest({**news, **loaded}) != olds.get("digest")
        return DiffResult(
            changes=bool(unknown or changed or difference or stale),
            replaces=["site"] if "site" in changed else [],
            delete_before_replace=True,  # a Caddy has the config of one gateway only
        )

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Load the config. Raises CaddyUnreachable, CaddyError (Caddy's config is unchanged), GatewayError."""
        props = {**props, "hop_key": secrets.token_hex(32)}
        self._load(props)
        _wait_for_certificate(props)
        return CreateResult(secrets.token_hex(4), _outputs(props))

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Compare with Caddy's config. An unreachable Caddy is drift too: the next `up` tries again."""
        try:
            actual, _ = drift.split_admin(_admin(props).config())
        except CaddyUnreachable as error:
            difference = f"unreachable: {error}"
        else:
            difference = ""
            if digest(actual) != props.get("digest"):
                difference = drift.difference(gateway_config(_spec(props)), actual) or "changed since it was loaded"
        if difference:
            ENGINE.warn(difference)
        return ReadResult(id_, {**props, "drift": difference})

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Load the new config with former upstreams as `retired`, and wait until these have no requests in flight.

        `retired` upstreams stay in the config until the next change, to avoid a second change now.
        """
        retired: list[Upstream] = []
        moved = not same(olds.get("admin_url"), news.get("admin_url"))
        if not moved:
            dials = {*_spec(news).dials}
            retired = [upstream for upstream in _spec(olds).upstreams if upstream.dial not in dials]
        outputs = _outputs({**olds, **news, "retired": record(retired)})
        self._load(outputs)
        if retired:
            self._drain(outputs, [upstream.dial for upstream in retired])
        if moved and not olds.get("rented"):  # the new address may lead to the same Caddy, so keep its config
            ENGINE.warn(
                f"the Caddy at {olds['admin_url']} is unchanged: if it is another Caddy, stop it or remove its config, "
                "because it still serves and accepts the old keys"
            )
        _wait_for_certificate(outputs)
        return UpdateResult(outputs)

    @verb
    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove Caddy's config, except its admin API. Raises GatewayError if Caddy is unreachable and not rented."""
        try:
            admin = _admin(props)
            actual, settings = drift.split_admin(admin.config())
            if drift.is_foreign(actual, str(props["site"])):
                ENGINE.log(f"the Caddy at {admin.where} has another config now, which stays unchanged")
            else:
                admin.load(settings)
        except CaddyUnreachable as error:
            if not props.get("rented"):
                raise GatewayError(
                    f"{error}. It may still have this gateway's config and keys: start that Caddy and repeat, "
                    "or, if it no longer exists, remove this resource from the state (pulumi state delete)"
                ) from None
            ENGINE.log(f"{error}; it was rented only for this gateway, so nothing has to be removed")

    def _load(self, props: Mapping[str, Any]) -> None:
        spec, admin = _spec(props), _admin(props)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                actual, settings = drift.split_admin(admin.config())
                if drift.is_foreign(actual, spec.site):
                    raise GatewayError(drift.refusal(actual, admin.where))
                admin.load({**settings, **gateway_config(spec)}, secrets=spec.secrets())
                break
            except CaddyUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_S)
        ENGINE.log(f"{spec.site} on {spec.listen}: {len(spec.upstreams)} upstreams")

    def _drain(self, props: Mapping[str, Any], retired: Sequence[str]) -> None:
        timeout_s = float(props["drain_timeout_s"])
        in_flight = _admin(props).drain(
            retired,
            timeout_s=timeout_s,
            settle_s=float(props["settle_s"]),
            progress=lambda text: ENGINE.log(text, ephemeral=True),
        )
        if in_flight:
            counts = ", ".join(f"{address}: {count}" for address, count in sorted(in_flight.items()))
            ENGINE.warn(f"still in flight after drain_timeout_s, {timeout_s:g} s: {counts}")
        else:
            ENGINE.log(f"nothing in flight to {', '.join(retired)}")


class Gateway(VastResource, name="Gateway"):
    """A gateway: a Caddy with the config from these inputs. Outputs: `drift` (in words, "" if none) and `digest` (of
    the loaded config, which is not stored; secret)."""

    listen: pulumi.Output[str]
    upstreams: pulumi.Output[list[dict[str, str]]]
    drift: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(GatewayProvider(), name, args, opts, secret=("digest", *SECRETS))


def _spec(props: Mapping[str, Any]) -> GatewaySpec:
    certificate = {"certificate": props.get("certificate"), "private_key": props.get("private_key")}
    # unique on Caddy's machine
    sockets = props.get("sockets") or f"unix/@{digest([props['site'], props['admin_url']])}"
    changed = {"certificate": certificate if any(certificate.values()) else None, "sockets": sockets}
    return structure(GatewaySpec, {**props, **changed})


def _wait_for_certificate(props: Mapping[str, Any]) -> None:
    """Wait until the gateway presents a certificate from ACME. Raises GatewayError."""
    if not props.get("acme"):
        return
    url, start_s = urlsplit(str(props["url"])), time.monotonic()
    host, timeout_s = str(url.hostname), float(props["acme_timeout_s"])
    ENGINE.log(f"waiting for a certificate of {host} from {props['acme']['directory']}", ephemeral=True)
    while fetch_certificate(host, url.port or 443, str(props["ca_certificate"]), host) is None:
        if time.monotonic() - start_s > timeout_s:
            raise GatewayError(
                f"after {timeout_s:g} s {props['url']} presents no certificate that clients trust; see Caddy's log. "
                f"The ACME server must reach {host}:443, and this port must lead to {props['listen']}"
            )
        time.sleep(POLL_S)


def _admin(props: Mapping[str, Any]) -> CaddyAdmin:
    return CaddyAdmin(str(props["admin_url"]), ca=str(props["admin_ca"]), key=str(props["admin_key"]))


def _digest(props: Mapping[str, Any]) -> str:
    return digest(gateway_config(_spec(props)))


def _outputs(props: Mapping[str, Any]) -> dict[str, Any]:
    return {**props, "digest": _digest(props), "drift": ""}
