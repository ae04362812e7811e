"""Gateway: one closed, encrypted address in front of some rerankers, as a resource. The balancing is Caddy's.

This file translates between Pulumi's verbs and `components.caddy`, where every decision is made. Where this resource
depends on rerankers that are replaced, its update moves requests before Pulumi deletes the old ones (docs/gateway.md).
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
from components.vast.identity import shown_by
from components.vast.json_values import digest, same

SECRETS = ("inbound_keys", "clients", "private_key", "upstreams", "retired", "admin_key", "hop_key")
PATIENCE_S = 10.0  # for a Caddy that is just being restarted
POLL_S = 0.5


@dataclass
class GatewayArgs:
    """What the gateway listens on, who may come in, and where requests go.

    `admin_url`: http://, https:// or unix:// address of the admin API of a Caddy that is this gateway's alone;
    `admin_key`, `admin_ca` for one behind TLS and a key. `rented`: that Caddy goes with its machine, so nothing is left
    to remove once it is gone. `site`, unique to the stack, names the server in Caddy's config.
    `upstreams`: `Upstream` records or maps of the same keys, checked by `readiness`; their certificates are signed by
    `upstream_ca` (PEM; empty for plain HTTP). `certificate` and `private_key` are PEM; without them the gateway speaks
    plain HTTP, or with `acme` gets certificates itself, which `url` then has to show within `acme_timeout_s`, by
    `ca_certificate` (PEM; empty for public CAs). `drain_timeout_s` bounds the wait for requests in
    flight, and `settle_s` is for how long there must be none: one that has just come in is in no count yet.
    `clients`, `client_ca`, `sockets`: see GatewaySpec; names of this gateway's own where it is empty.
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


INPUTS = tuple(one.name for one in fields(GatewayArgs))


class GatewayProvider(VastProvider):
    """Makes a Caddy a gateway, watches its config, moves its upstreams, empties it."""

    @verb
    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        # upstreams are not there at all where what they come from has failed; the engine then skips this resource
        if news.get("upstreams") is None or not all(is_known(news.get(key)) for key in INPUTS):
            return CheckResult(news, [])
        reasons = problems(_spec(news))
        if urlsplit(str(news.get("admin_url"))).scheme not in ("http", "https", "unix"):
            reasons.append("admin_url: accepted: http://, https:// or unix:// followed by an address or a path")
        return CheckResult(news, [CheckFailure("", one) for one in reasons])

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Everything is applied in place, but another `site`; what was seen to differ in Caddy is put back."""
        unknown = [key for key in INPUTS if not is_known(news.get(key))]
        changed = [key for key in INPUTS if key not in unknown and not same(olds.get(key), news.get(key))]
        if difference := str(olds.get("drift") or ""):
            ENGINE.warn(f"will be put back: {difference}")
        loaded = {key: olds.get(key) for key in ("retired", "hop_key")}
        stale = not unknown and _digest({**news, **loaded}) != olds.get("digest")
        return DiffResult(
            changes=bool(unknown or changed or difference or stale),
            replaces=["site"] if "site" in changed else [],
            delete_before_replace=True,  # a Caddy is one gateway's at a time
        )

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Load the config. Raises CaddyUnreachable, CaddyError (Caddy's config stays as it was), GatewayError."""
        props = {**props, "hop_key": secrets.token_hex(32)}
        self._load(props)
        _see_certificate(props)
        return CreateResult(secrets.token_hex(4), _outputs(props))

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Compare with what Caddy holds. A Caddy that cannot be asked is drift as well: the next `up` tries again."""
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
        """Load the new config, with former upstreams in it as `retired`, and wait until these have nothing in flight.

        They stay in it until the next change: to take them out would be one more change of the config.
        """
        retired: list[Upstream] = []
        moved = not same(olds.get("admin_url"), news.get("admin_url"))
        if not moved:
            stay = {*_spec(news).dials}
            retired = [one for one in _spec(olds).upstreams if one.dial not in stay]
        outputs = _outputs({**olds, **news, "retired": record(retired)})
        self._load(outputs)
        if retired:
            self._drain(outputs, [one.dial for one in retired])
        if moved and not olds.get("rented"):  # it may be the same Caddy by another address, so it is not emptied
            ENGINE.warn(
                f"the Caddy at {olds['admin_url']} is left as it was: if it is another one, stop or empty it, for it "
                "still serves and takes the keys of then"
            )
        _see_certificate(outputs)
        return UpdateResult(outputs)

    @verb
    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Empty Caddy, but for its admin API. Raises where it cannot be asked, unless it was rented and is gone."""
        try:
            admin = _admin(props)
            actual, settings = drift.split_admin(admin.config())
            if drift.is_foreign(actual, str(props["site"])):
                ENGINE.log(f"the Caddy at {admin.where} holds another config by now, which is left as it is")
            else:
                admin.load(settings)
        except CaddyUnreachable as error:
            if not props.get("rented"):
                raise GatewayError(
                    f"{error}. It may still have this gateway's config, with its keys: start that Caddy and repeat, "
                    "or, if it is gone for good, remove this resource from the state (pulumi state delete)"
                ) from None
            ENGINE.log(f"{error}; it was rented for this gateway alone, nothing is left to remove")

    # ---- doing -------------------------------------------------------------------------------------------------------

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
        left = _admin(props).drain(
            retired,
            timeout_s=timeout_s,
            settle_s=float(props["settle_s"]),
            progress=lambda text: ENGINE.log(text, ephemeral=True),
        )
        if left:
            counts = ", ".join(f"{address}: {count}" for address, count in sorted(left.items()))
            ENGINE.warn(f"still in flight after drain_timeout_s, {timeout_s:g} s: {counts}")
        else:
            ENGINE.log(f"nothing in flight to {', '.join(retired)}")


class Gateway(VastResource, name="Gateway"):
    """A gateway: a Caddy with the config that this says. Outputs: `drift` (in words, "" if none) and `digest` (of the
    config that was loaded, which itself is stored nowhere; secret)."""

    listen: pulumi.Output[str]
    upstreams: pulumi.Output[list[dict[str, str]]]
    drift: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(GatewayProvider(), name, args, opts, secret=("digest", *SECRETS))


def _spec(props: Mapping[str, Any]) -> GatewaySpec:
    shown = {"certificate": props.get("certificate"), "private_key": props.get("private_key")}
    # a name on its machine that no other Caddy's gateway has
    sockets = props.get("sockets") or f"unix/@{digest([props['site'], props['admin_url']])}"
    own = {"certificate": shown if any(shown.values()) else None, "sockets": sockets}
    return structure(GatewaySpec, {**props, **own})


def _see_certificate(props: Mapping[str, Any]) -> None:
    """Wait until clients are shown a certificate that Caddy got by ACME. Raises GatewayError."""
    if not props.get("acme"):
        return
    where, began = urlsplit(str(props["url"])), time.monotonic()
    host, timeout_s = str(where.hostname), float(props["acme_timeout_s"])
    ENGINE.log(f"waits for a certificate of {host} by {props['acme']['directory']}", ephemeral=True)
    while shown_by(host, where.port or 443, str(props["ca_certificate"]), host) is None:
        if time.monotonic() - began > timeout_s:
            raise GatewayError(
                f"within {timeout_s:g} s {props['url']} shows no certificate that clients trust; Caddy's log says why: "
                f"the ACME server has to reach {host}:443, and that to lead to {props['listen']}"
            )
        time.sleep(POLL_S)


def _admin(props: Mapping[str, Any]) -> CaddyAdmin:
    return CaddyAdmin(str(props["admin_url"]), ca=str(props["admin_ca"]), key=str(props["admin_key"]))


def _digest(props: Mapping[str, Any]) -> str:
    return digest(gateway_config(_spec(props)))


def _outputs(props: Mapping[str, Any]) -> dict[str, Any]:
    return {**props, "digest": _digest(props), "drift": ""}
