"""Gateway: one closed, encrypted address in front of some rerankers, as a resource. The balancing is Caddy's.

This file translates between Pulumi's verbs and `components.caddy`, where every decision is made: `config` (what Caddy
is told), `owned` (what of a Caddy is ours, and how it differs), `drain` (when old upstreams are idle). Applied through
the admin API of a Caddy that runs already, without a restart; other sites of that Caddy are left alone.

Replacing rerankers takes no downtime when this resource depends on them: new ones are created first, then this update
moves the gateway and returns only once the old ones have nothing in flight, and only then does Pulumi delete those.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from components.caddy import owned, record
from components.caddy.admin import CaddyAdmin
from components.caddy.drain import drain
from components.caddy.record import Certificate, Policy, dial, problems
from components.caddy.transport import HttpTransport
from components.errors import CaddyUnreachable, GatewayError
from components.plugin.engine import ENGINE
from components.plugin.pool import widen
from components.plugin.verbs import known, verb
from components.vast.identity import SERVER_NAME
from components.vast.json_values import same

T = TypeVar("T")
INPUTS = (
    "site", "listen", "inbound_keys", "certificate", "private_key", "internal_names", "upstreams", "upstream_key",
    "upstream_ca", "server_name", "model", "policy", "admin_url", "admin_key", "admin_ca", "drain_timeout_s",
    "settle_s", "rented",
)  # fmt: skip
SECRETS = ("inbound_keys", "private_key", "upstream_key", "admin_key")
PATIENCE_S = 10.0  # for a Caddy that is just being restarted
POLL_S = 0.5


@dataclass
class GatewayArgs:
    """What the gateway listens on, who may come in, and where requests go.

    `admin_url`: http://, https:// or unix:// address of Caddy's admin API; `admin_key`, `admin_ca` for one behind TLS
    and a key. `rented`: that Caddy is this stack's own, so nothing is left to remove once it is gone.
    `upstreams`: host:port or the rerankers' URLs; all take `upstream_key`, and their certificates are signed by
    `upstream_ca` (PEM; empty for plain HTTP) for `server_name`. `certificate` and `private_key` are PEM; or
    `internal_names` has Caddy's own CA sign for these names; with neither the gateway speaks plain HTTP.
    `policy`: see components.caddy.record.Policy. `drain_timeout_s` bounds the wait for requests in flight, and
    `settle_s` is for how long there must be none: one that has just come in is in no count yet.
    """

    admin_url: pulumi.Input[str]
    listen: pulumi.Input[str]
    inbound_keys: pulumi.Input[Sequence[pulumi.Input[str]]]
    upstreams: pulumi.Input[Sequence[pulumi.Input[str]]]
    upstream_key: pulumi.Input[str]
    model: pulumi.Input[str]
    site: str = "reranker"
    certificate: pulumi.Input[str] = ""
    private_key: pulumi.Input[str] = ""
    internal_names: Sequence[str] = ()
    upstream_ca: pulumi.Input[str] = ""
    server_name: str = SERVER_NAME
    policy: Mapping[str, Any] = field(default_factory=dict)
    admin_key: pulumi.Input[str] = ""
    admin_ca: pulumi.Input[str] = ""
    drain_timeout_s: float = 300.0
    settle_s: float = 3.0
    rented: bool = False


class GatewayProvider(ResourceProvider):
    """Puts one gateway into a Caddy, watches it there, moves its upstreams, takes it out."""

    serialize_as_secret_always = True

    def configure(self, _req: ConfigureRequest) -> None:
        """Let as many operations run as are asked for; needs no account and no session."""
        if ENGINE.address:
            widen()

    @verb
    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Report every unusable input; none is shown that is secret."""
        # upstreams are not there at all where what they come from has failed; the engine then skips this resource
        if news.get("upstreams") is None or not all(known(news.get(key)) for key in INPUTS):
            return CheckResult(news, [])
        try:
            found = problems(_gateway(news, "check"))
        except (TypeError, ValueError, KeyError) as error:
            found = [f"policy: {type(error).__name__} {error}"]
        if urlsplit(str(news.get("admin_url"))).scheme not in ("http", "https", "unix"):
            found.append("admin_url: accepted: http://, https:// or unix:// followed by an address or a path")
        return CheckResult(news, [CheckFailure("", one) for one in found])

    @verb
    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Everything is applied in place, but another `site`; what was seen to differ in Caddy is put back."""
        unknown = [key for key in INPUTS if not known(news.get(key))]
        changed = [key for key in INPUTS if key not in unknown and not same(olds.get(key), news.get(key))]
        if drift := str(olds.get("drift") or ""):
            ENGINE.log(f"will be put back: {drift}", severity="warning")
        declared = {**news, "retired": olds.get("retired")}
        stale = not unknown and _digest(_gateway(declared, str(olds.get("owner")))) != olds.get("digest")
        return DiffResult(
            changes=bool(unknown or changed or drift or stale),
            replaces=["site"] if "site" in changed else [],
            delete_before_replace=True,  # two servers of one Caddy cannot listen on one address
        )

    @verb
    def create(self, props: dict[str, Any]) -> CreateResult:
        """Put the gateway in. Raises CaddyUnreachable, CaddyError (the config stays as it was), GatewayConflict."""
        owner = secrets.token_hex(4)
        self._apply(props, owner)
        return CreateResult(owner, _outputs(props, owner))

    @verb
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Compare with what Caddy holds. A Caddy that cannot be asked is drift as well: the next `up` tries again."""
        try:
            current, _ = _admin(props).config()
        except CaddyUnreachable as error:
            drift = f"unreachable: {error}"
        else:
            mine = owned.own(current, str(props["site"]))
            drift = ""
            if owned.digest(mine) != props.get("digest"):
                drift = owned.difference(current, _gateway(props, str(props["owner"]))) or "changed: by hand"
        if drift:
            ENGINE.log(drift, severity="warning")
        return ReadResult(id_, {**props, "drift": drift})

    @verb
    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Apply the new config, with former upstreams in it as `retired`, and wait until these have nothing in flight.

        They stay in it until the next change: to take them out would be one more change of the config.
        """
        owner, moved = str(olds["owner"]), not same(olds.get("admin_url"), news.get("admin_url"))
        retired: tuple[str, ...] = ()
        if moved:  # a new mark, so that taking out the old one cannot hit the new, should both be the same Caddy
            owner = secrets.token_hex(4)
            self._apply(news, owner)
            self._leave(olds)
        else:
            before, after = ({dial(str(one)) for one in props["upstreams"]} for props in (olds, news))
            retired = tuple(sorted(before - after))
            self._apply({**news, "retired": retired}, owner)
            if retired:
                self._drain(news, retired)
        return UpdateResult(_outputs({**olds, **news, "retired": list(retired)}, owner))

    @verb
    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Take out what is this gateway's own. Raises where Caddy cannot be asked, unless it was rented and is gone."""
        try:
            self._take_out(props)
        except CaddyUnreachable as error:
            if not props.get("rented"):
                raise GatewayError(
                    f"{error}. Its server {props['site']!r} may still be in Caddy's config: start that Caddy and "
                    "repeat, or, if it is gone for good, remove this resource from the state (pulumi state delete)"
                ) from None
            ENGINE.log(f"{error}; it was rented for this gateway alone, nothing is left to remove")

    # ---- doing -------------------------------------------------------------------------------------------------------

    def _apply(self, props: Mapping[str, Any], owner: str) -> None:
        gateway = _gateway(props, owner)
        admin = _admin(props)
        _patiently(lambda: admin.change(lambda current: owned.put(current, gateway), secrets=gateway.secrets()))
        there, _ = admin.config()
        if difference := owned.difference(there, gateway):
            raise GatewayError(f"Caddy at {admin.where} took the config, yet does not hold it: {difference}")
        ENGINE.log(f"{gateway.site} on {gateway.listen}: {len(gateway.upstreams)} upstreams")

    def _drain(self, props: Mapping[str, Any], retired: tuple[str, ...]) -> None:
        timeout_s = float(props["drain_timeout_s"])
        left = drain(
            _admin(props),
            retired,
            timeout_s=timeout_s,
            settle_s=float(props["settle_s"]),
            progress=lambda text: ENGINE.log(text, ephemeral=True),
        )
        if left:
            counts = ", ".join(f"{address}: {count}" for address, count in sorted(left.items()))
            ENGINE.log(f"still in flight after drain_timeout_s, {timeout_s:g} s: {counts}", severity="warning")
        else:
            ENGINE.log(f"nothing in flight to {', '.join(retired)}")

    def _take_out(self, props: Mapping[str, Any]) -> None:
        site, owner = str(props["site"]), str(props["owner"])
        _admin(props).change(lambda current: owned.take_out(current, site, owner))

    def _leave(self, olds: Mapping[str, Any]) -> None:
        """Take the gateway out of the Caddy where it was before, if that can still be asked."""
        try:
            self._take_out(olds)
        except GatewayError as error:
            ENGINE.log(f"left behind in the Caddy it was in: {error}", severity="warning")


class Gateway(Resource, module="vast", name="Gateway"):
    """A gateway in a running Caddy. Outputs: `drift` (in words, "" if none), `owner` (its mark in Caddy's config) and
    `digest` (of the config that was applied, which itself is stored nowhere; secret)."""

    listen: pulumi.Output[str]
    upstreams: pulumi.Output[list[str]]
    drift: pulumi.Output[str]
    owner: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(self, name: str, args: GatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        inputs = dict(vars(args))
        for key in SECRETS:
            inputs[key] = pulumi.Output.secret(inputs[key])
        own = pulumi.ResourceOptions(additional_secret_outputs=["digest", *SECRETS])
        outputs = {"drift": None, "owner": None, "digest": None}
        super().__init__(GatewayProvider(), name, {**outputs, **inputs}, pulumi.ResourceOptions.merge(own, opts))


def _gateway(props: Mapping[str, Any], owner: str) -> record.Gateway:
    certificate = None
    if props.get("certificate") or props.get("private_key"):
        certificate = Certificate("pem", str(props.get("certificate")), str(props.get("private_key")))
    elif props.get("internal_names"):
        certificate = Certificate("internal", names=tuple(str(one) for one in props["internal_names"]))
    return record.Gateway(
        site=str(props["site"]),
        listen=str(props["listen"]),
        inbound_keys=tuple(str(one) for one in props["inbound_keys"]),
        upstreams=tuple(dial(str(one)) for one in props["upstreams"]),
        upstream_key=str(props["upstream_key"]),
        model=str(props["model"]),
        upstream_ca=str(props.get("upstream_ca") or ""),
        server_name=str(props.get("server_name") or SERVER_NAME),
        certificate=certificate,
        policy=Policy.parse(props.get("policy") or {}),
        owner=owner,
        retired=tuple(str(one) for one in props.get("retired") or ()),
    )


def _admin(props: Mapping[str, Any]) -> CaddyAdmin:
    url, ca, key = (str(props.get(name) or "") for name in ("admin_url", "admin_ca", "admin_key"))
    return CaddyAdmin(HttpTransport(url, ca=ca), url, key=key)


def _digest(gateway: record.Gateway) -> str:
    return owned.digest(owned.own(owned.put(None, gateway), gateway.site))


def _outputs(props: Mapping[str, Any], owner: str) -> dict[str, Any]:
    return {**props, "owner": owner, "digest": _digest(_gateway(props, owner)), "drift": ""}


def _patiently(call: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except CaddyUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(POLL_S)
