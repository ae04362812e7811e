"""RerankerFleet: the whole flow as one component: keys, CA, offers, instances, client keys, validation, gateway.

Used by `__main__.py`. One replica without a gateway is the common case; without any the gateway answers 503. The first
replica has the fleet's name and the others a number, so a stack that grows keeps what it has. Only instances are there
once for each replica.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pulumi

from components.client_keys import ClientKeys, ClientKeysArgs
from components.clients import Client, guard_clients, named_clients
from components.config import DAY_S, Config
from components.credentials import ApiKey, CertificateAuthority, ServerCertificate
from components.instance import Instance
from components.offers import OfferQuery
from components.records import record, structure
from components.reranker import Common, instance, server, server_launch
from components.settings import Settings
from components.validation import RerankValidation, RerankValidationArgs
from components.vast.address import is_loopback
from components.vast.identity import expiry, own_key, server_name
from components.vast.market import Search
from components.vast.money import Budget, monthly_cost

if TYPE_CHECKING:
    from components.gateway import Gateway  # loaded where there is one: a preview without pays for every import

OPEN_ROUTES = (
    "guard is false: /rerank, /score, /metrics and the documentation answer anyone who finds the port; "
    "vLLM's own key covers /v1 and /v2 only"
)
IN_CLEAR = (
    "tls is false: the key, every query and every document cross the internet in clear, for every network on the way "
    "to read"
)
FACTS = ("instance_id", "machine_id", "host_id", "gpu", "geolocation", "url", "hourly_cost_usd", "nonce")
SERVER = ("name", "url", "instance_id", "nonce")


class RerankerFleet(pulumi.ComponentResource):
    """Rerankers on machines of their own, behind one address where there is a gateway.

    `replicas`: the servers' instances. `instances`: all that is rented, a gateway's too. `ca_certificate`: what clients
    of `url` trust, empty for public CAs; `servers_ca`: the stack's own CA, by which its servers are known.
    """

    url: pulumi.Output[str]
    api_key: pulumi.Output[str]
    client_keys: pulumi.Output[dict[str, str]]
    ca_certificate: pulumi.Output[str]
    servers_ca: pulumi.Output[str]
    offers: OfferQuery
    replicas: list[Instance]
    instances: list[Instance]
    rows: pulumi.Output[list[dict[str, Any]]]
    validation: RerankValidation

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("vast:index:RerankerFleet", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        config = settings.config
        unknown = f"image {settings.image.ref} is {settings.image.note}; nothing says that it exists and has vLLM in it"
        for on, warning in ((config.guard, OPEN_ROUTES), (config.tls, IN_CLEAR), (settings.image.known, unknown)):
            if not on:
                pulumi.log.warn(warning, resource=self)
        keys = client_keys(name, config, child)
        # never sent anywhere: what follows from it, one server's own key, is
        secret = ApiKey(f"{name}-own-key", child).value
        made: CertificateAuthority | None = None
        self.servers_ca = pulumi.Output.from_input("")
        if config.tls:
            common_name = f"{pulumi.get_project()} {pulumi.get_stack()} {name}"
            made = CertificateAuthority(f"{name}-ca", common_name, _permitted(config), child)
            self.servers_ca = made.certificate
        count = settings.replicas
        names = [name, *(f"{name}-{number}" for number in range(2, count + 1))][:count]
        self.offers = OfferQuery(f"{name}-offers", settings.search(), names, child)
        common = Common(
            settings=settings,
            launch=server_launch(settings),
            offers=self.offers,
            stack_secret=secret,
            # with a guard, a container is given a key of its own, and is told later which others are valid
            server_key=None if config.guard else keys[0],
            ca_certificate=made.certificate if made else None,
            ca_private_key=made.private_key if made else None,
        )
        self.replicas = [server(one, index, common, child) for index, one in enumerate(names)]
        self.instances = [*self.replicas]
        self.url, self.api_key = self.replicas[0].url if count else pulumi.Output.from_input(""), keys[0]
        self.gateway: Gateway | None = None  # not in the class: Pulumi resolves what is annotated there
        self.rows = _rows(names, self.replicas)
        servers = self.rows.apply(lambda rows: [{key: one[key] for key in SERVER} for one in rows])
        direct = config.gateway.kind == "off"
        rented = self._rented(f"{name}-gateway", common) if config.gateway.kind == "rent" else None
        named = secret.apply(lambda text: named_clients(config.client_keys, text))
        # what clients present at the servers themselves; behind a gateway they present it there
        valid = pulumi.Output.all(named, *keys).apply(
            lambda known: record(guard_clients(known[0], known[1:], direct=direct))
        )
        access = ClientKeysArgs(servers, secret, valid, self.servers_ca, config.client_ca if direct else "")
        accepted: ClientKeys | None = None
        if config.guard and direct:
            accepted = ClientKeys(f"{name}-keys", access, child)
            self.api_key = accepted.current
        # no client's key opens a server alone: behind a gateway, or where a certificate is needed beside it
        by_own_key = config.guard and (not direct or bool(config.client_ca))
        self.validation = RerankValidation(
            f"{name}-validation",
            RerankValidationArgs(
                servers=servers,
                api_key="" if by_own_key else self.api_key,
                stack_secret=secret if config.guard else "",
                model=settings.model.name,
                guard=config.guard,
                ca_certificate=self.servers_ca,
                max_latency_ms=config.max_latency_ms,
            ),
            # A destroy begins here, so this stops all of it. A protected instance could not be replaced when it dies.
            pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(protect=config.protect)),
        )
        if config.guard and not direct and config.client_keys:
            # last before the gateway takes them: this ends the keys of a stack that had none before
            last = pulumi.ResourceOptions(depends_on=[self.validation, *([rented] if rented else [])])
            accepted = ClientKeys(f"{name}-keys", access, pulumi.ResourceOptions.merge(child, last))
        if accepted is not None:
            named = pulumi.Output.all(named, accepted.id).apply(lambda known: known[0])
        self.ca_certificate = self.servers_ca
        if not direct:
            if config.gateway.has_other_certificate:
                self.ca_certificate = pulumi.Output.from_input(config.gateway.ca_certificate)
            self.url, self.gateway = self._gateway(f"{name}-gateway", common, keys, named, rented)
            # known once the gateway takes them
            self.api_key = pulumi.Output.all(keys[0], self.gateway.id).apply(lambda known: str(known[0]))
            named = pulumi.Output.all(named, self.gateway.id).apply(lambda known: known[0])
        self.client_keys = named.apply(lambda known: {one.name: one.key for one in reversed(known)})
        self.register_outputs({"url": self.url})

    def first_choice(self) -> pulumi.Output[dict[str, Any]]:
        """Return the offer at the top of the list: known in a preview, before anything is rented."""
        return self.offers.candidates.apply(lambda found: _offer_summary(found[0]))

    def curl(self) -> pulumi.Output[str]:
        """Return a command for bash or zsh that tries the endpoint.

        curl reads the key from a pipe: neither this text nor a command line holds a secret.
        """
        stack = pulumi.get_stack()
        key = f"pulumi stack output api_key --show-secrets --stack {stack} | sed 's/^/Authorization: Bearer /'"
        trust = f" --cacert <(pulumi stack output ca_certificate --stack {stack})"
        body = (
            '{"query": "What is deep learning?", "documents": ["Deep learning is machine learning.", "I like pizza."]}'
        )
        return pulumi.Output.all(self.url, self.ca_certificate).apply(
            lambda known: (
                f"curl -s{trust if known[1] else ''} {known[0]}/rerank -H 'Content-Type: application/json' "
                f"-H @<({key}) -d '{body}'"
            )
        )

    def hourly_cost_usd(self) -> pulumi.Output[dict[str, float]]:
        """Return dollars per hour for gpu, disk and in total, of everything that is rented."""
        return pulumi.Output.all(*(one.hourly_cost_usd for one in self.instances)).apply(_sum)

    def monthly_cost_usd(self) -> pulumi.Output[float]:
        return self.hourly_cost_usd().apply(monthly_cost)

    def table(self) -> pulumi.Output[list[dict[str, Any]]]:
        return self.rows.apply(
            lambda rows: [{key: one[key] for key in one if key not in ("name", "nonce")} for one in rows]
        )

    def _gateway(
        self,
        name: str,
        common: Common,
        keys: list[pulumi.Output[str]],
        named: pulumi.Output[list[Client]],
        rented: Instance | None,
    ) -> tuple[pulumi.Output[str], Gateway]:
        """Put a Caddy in front, which is this stack's alone: one that runs already, or one that was `rented` for it."""
        from components.caddy.launch import LISTEN, SOCKETS, admin_url  # noqa: PLC0415
        from components.caddy.spec import Acme, GatewayPolicy  # noqa: PLC0415
        from components.gateway import Gateway, GatewayArgs  # noqa: PLC0415

        child = pulumi.ResourceOptions(parent=self)
        settings, config = common.settings, common.settings.config
        front = config.gateway
        policy = {"max_bytes": settings.guard_options["max_bytes"], "response_timeout_s": config.timeouts.answer_s}
        inputs: dict[str, Any] = {
            # by what this state is known, which no rename changes
            "site": self.offers.id.apply(lambda owner: f"{name}.{owner}"),
            # taken from the validation: what is not validated gets no request
            "upstreams": pulumi.Output.all(
                self.validation.urls, self.rows, common.stack_secret, common.server_key
            ).apply(_upstreams),
            "upstream_ca": self.servers_ca,
            "inbound_keys": pulumi.Output.all(*keys).apply(lambda all_: [key for key in all_ if key]),
            "clients": named.apply(lambda known: [{"name": one.name, "key": one.key} for one in known]),
            "readiness": settings.model.readiness,
            "policy": structure(GatewayPolicy, front.model_dump() | policy),
            "drain_timeout_s": config.timeouts.drain_s,
        }
        url = pulumi.Output.from_input(front.url)
        if rented is not None:
            self.instances.append(rented)
            url = rented.url
            inputs |= {"listen": LISTEN, "admin_url": url.apply(admin_url), "rented": True}
            inputs |= {"sockets": SOCKETS, "admin_ca": self.servers_ca}
            inputs["admin_key"] = pulumi.Output.all(common.stack_secret, rented.nonce).apply(lambda two: own_key(*two))
        else:
            admin_key_given = front.admin_key.get_secret_value() if front.admin_key else ""
            inputs |= {"listen": front.listen, "admin_url": front.admin_url, "admin_key": admin_key_given}
            inputs["client_ca"] = config.client_ca
            ca, ca_key = common.ca_certificate, common.ca_private_key
            if front.certificate and front.private_key:
                left_d = (expiry(front.certificate) - time.time()) / DAY_S
                if left_d < config.renew.certificate_before_d:
                    pulumi.log.warn(f"gateway.certificate ends in {left_d:.0f} days: set the next one", resource=self)
                inputs |= {"certificate": front.certificate, "private_key": front.private_key.get_secret_value()}
            elif front.acme:
                inputs |= {"acme": structure(Acme, front.acme.model_dump())}
                inputs |= {"url": front.url, "ca_certificate": front.ca_certificate}
            elif ca is not None and ca_key is not None and not front.has_other_certificate:
                authority = {"certificate": ca, "private_key": ca_key}
                host, renew = urlsplit(front.url).hostname or "", config.renew.certificate_before_d
                shown = ServerCertificate(f"{name}-certificate", [host], authority, renew, child)
                inputs |= {"certificate": shown.certificate, "private_key": shown.private_key}
        # a destroy begins here, so this stops all of it
        first_to_go = pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(protect=config.protect))
        gateway = Gateway(name, GatewayArgs(**inputs), first_to_go)
        return pulumi.Output.all(url, gateway.id).apply(lambda known: str(known[0])), gateway

    def _rented(self, name: str, common: Common) -> Instance:
        from components.caddy.launch import ADMIN_KEY_ENV, DISK_GB, QUERY, admin_probe, plan_gateway_launch  # noqa: PLC0415

        child = pulumi.ResourceOptions(parent=self)
        settings, config = common.settings, common.settings.config
        launch = plan_gateway_launch(client_ca=config.client_ca)
        offers = OfferQuery(
            f"{name}-offers",
            Search(
                query=QUERY,
                # documents pass through it in clear, so it stands where a reranker may stand
                constraints=settings.policy_constraints,
                disk_gb=DISK_GB,
                pull_gb=0.1,
                start_s=20.0,
                prefer="cheapest",
            ),
            [f"{name}-instance"],
            child,
        )
        return instance(
            f"{name}-instance",
            launch,
            offers,
            common,
            child,
            disk_gb=DISK_GB,
            env=launch.env,
            key_env=ADMIN_KEY_ENV,
            probe=admin_probe(config.timeouts.probe_timeout_s),
            money=Budget(min_runway_h=config.min_runway_h),
        )


def client_keys(name: str, config: Config, opts: pulumi.ResourceOptions) -> list[pulumi.Output[str]]:
    """Return the keys that clients may present, the current one first: the config's, or made here."""
    if config.api_key is None:
        generation, keep = config.api_key_generation, config.keep_previous_key
        made = ApiKey(f"{name}-key", opts, generation=generation, keep_previous=keep)
        return [made.value, made.previous]
    given = (config.api_key, config.api_key_previous)
    return [pulumi.Output.secret(key.get_secret_value()) for key in given if key]


def _permitted(config: Config) -> list[str]:
    """Return what the stack's CA may sign besides servers on the internet: a gateway's host, an emulator's machines."""
    host = urlsplit(config.gateway.url).hostname if config.gateway.kind == "caddy" else None
    return [*([host] if host else []), *(["127.0.0.0/8"] if is_loopback(config.emulator.url) else [])]


def _rows(names: Sequence[str], instances: Sequence[Instance]) -> pulumi.Output[list[dict[str, Any]]]:
    facts = [pulumi.Output.all(**{fact: getattr(one, fact) for fact in FACTS}) for one in instances]

    def row(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
        shown_as = {"server_name": server_name(known["nonce"])}
        return {"name": name, **known, **shown_as, "hourly_cost_usd": known["hourly_cost_usd"]["total"]}

    return pulumi.Output.all(*facts).apply(lambda known: list(map(row, names, known)))


def _upstreams(known: Sequence[Any]) -> list[dict[str, str]]:
    """Return the servers as a gateway takes them: each with its own key, or with vLLM's where there is no guard."""
    urls, rows, secret, server_key = known
    return [
        {"address": url, "key": server_key or own_key(secret, row["nonce"]), "server_name": row["server_name"]}
        for url, row in zip(urls, rows, strict=True)
    ]


def _sum(costs: list[Mapping[str, float]]) -> dict[str, float]:
    return {part: round(sum(one[part] for one in costs), 5) for part in ("gpu", "disk", "total")}


def _offer_summary(candidate: dict[str, Any]) -> dict[str, Any]:
    names = {
        "ask_contract_id": "offer_id",
        "machine_id": "machine_id",
        "gpu_name": "gpu",
        "geolocation": "geolocation",
        "dph_total": "dph_total_usd",
        "pull_cost_usd": "pull_cost_usd",
        "ready_s": "ready_s",
    }
    found = {name: candidate.get(key) for key, name in names.items()}
    return found | {"dph_total_usd": round(float(candidate.get("dph_total") or 0.0), 4)}
