"""RerankerFleet, the component of a stack: keys, CA, offers, instances, client keys, validation and gateway.

Used by `__main__.py`. The common case is one replica without a gateway; with no replica the gateway answers 503. The
first replica has the fleet's name, the others a number, so a growing stack keeps its instances.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import pulumi

from components.client_keys import ClientKeys, ClientKeysArgs
from components.clients import Client, guard_clients, named_clients
from components.config import DAY_S, Config
from components.credentials import ApiKey, CertificateAuthority, ServerCertificate
from components.instance import Instance
from components.offers import OfferQuery
from components.records import record, structure
from components.reranker import Common, declare_instance, declare_server, server_launch
from components.settings import Settings
from components.validation import RerankValidation, RerankValidationArgs
from components.vast.address import is_loopback
from components.vast.identity import expiry, own_key, server_name
from components.vast.market import Search
from components.vast.money import Budget, monthly_cost

if TYPE_CHECKING:
    from components.gateway import Gateway  # imported only if needed, for a fast preview

OPEN_ROUTES = (
    "guard is false: /rerank, /score, /metrics and the documentation answer anyone who finds the port; "
    "vLLM's own key covers /v1 and /v2 only"
)
IN_CLEAR = "tls is false: the key, all queries and all documents cross the internet unencrypted"
FACTS = ("instance_id", "machine_id", "host_id", "gpu", "geolocation", "url", "hourly_cost_usd", "nonce")
SERVER_FACTS = ("name", "url", "instance_id", "nonce")
T = TypeVar("T")


class RerankerFleet(pulumi.ComponentResource):
    """Rerankers, each on its own machine; with a gateway all have one address.

    `replicas`: the servers' instances. `instances`: all rented instances, with the gateway's. `ca_certificate`: the CA
    for clients of `url`, empty for public CAs; `servers_ca`: the stack's own CA, which signs the servers' certificates.
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
        unknown = f"image {settings.image.ref} is {settings.image.note}; it may not exist, or may not contain vLLM"
        for on, warning in ((config.guard, OPEN_ROUTES), (config.tls, IN_CLEAR), (settings.image.known, unknown)):
            if not on:
                pulumi.log.warn(warning, resource=self)
        keys = client_keys(name, config, child)
        # this secret is never sent; each server gets its own key, derived from it
        secret = ApiKey(f"{name}-own-key", child).value
        authority: CertificateAuthority | None = None
        self.servers_ca = pulumi.Output.from_input("")
        if config.tls:
            common_name = f"{pulumi.get_project()} {pulumi.get_stack()} {name}"
            authority = CertificateAuthority(f"{name}-ca", common_name, _permitted(config), child)
            self.servers_ca = authority.certificate
        count = settings.replicas
        names = [name, *(f"{name}-{number}" for number in range(2, count + 1))][:count]
        self.offers = OfferQuery(f"{name}-offers", settings.search(), names, child)
        common = Common(
            settings=settings,
            launch=server_launch(settings),
            offers=self.offers,
            stack_secret=secret,
            # with a guard each container has its own key, and ClientKeys sets the clients' keys later
            server_key=None if config.guard else keys[0],
            ca_certificate=authority.certificate if authority else None,
            ca_private_key=authority.private_key if authority else None,
        )
        self.replicas = [declare_server(replica, index, common, child) for index, replica in enumerate(names)]
        self.instances = [*self.replicas]
        self.url, self.api_key = self.replicas[0].url if count else pulumi.Output.from_input(""), keys[0]
        self.gateway: Gateway | None = None  # not in the class: Pulumi resolves the class's annotations
        self.rows = _rows(names, self.replicas)
        servers = self.rows.apply(lambda rows: [{key: row[key] for key in SERVER_FACTS} for row in rows])
        direct = config.gateway.kind == "off"
        rented = self._rent_gateway(f"{name}-gateway", common) if config.gateway.kind == "rent" else None
        named = secret.apply(lambda text: named_clients(config.client_keys, text))
        clients = pulumi.Output.all(named, *keys).apply(
            lambda values: record(guard_clients(values[0], values[1:], direct=direct))
        )
        access = ClientKeysArgs(servers, secret, clients, self.servers_ca, config.client_ca if direct else "")
        accepted: ClientKeys | None = None
        if config.guard and direct:
            accepted = ClientKeys(f"{name}-keys", access, child)
            self.api_key = accepted.current
        # a client's key alone opens no server: behind a gateway, or if clients also need a certificate
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
            # Pulumi deletes this resource before the instances: its protection refuses a destroy before anything is
            # lost. An Instance is not protected: it could not be replaced.
            pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(protect=config.protect)),
        )
        if config.guard and not direct and config.client_keys:
            # just before the gateway; if the stack had none before, this removes the clients' keys from the servers
            last = pulumi.ResourceOptions(depends_on=[self.validation, *([rented] if rented else [])])
            accepted = ClientKeys(f"{name}-keys", access, pulumi.ResourceOptions.merge(child, last))
        if accepted is not None:
            named = _after(named, accepted)
        self.ca_certificate = self.servers_ca
        if not direct:
            if config.gateway.has_other_certificate:
                self.ca_certificate = pulumi.Output.from_input(config.gateway.ca_certificate)
            self.url, self.gateway = self._gateway(f"{name}-gateway", common, keys, named, rented)
            self.api_key, named = _after(keys[0], self.gateway), _after(named, self.gateway)
        self.client_keys = named.apply(lambda clients: {client.name: client.key for client in reversed(clients)})
        self.register_outputs({"url": self.url})

    def first_choice(self) -> pulumi.Output[dict[str, Any]]:
        """Return the best offer, which a preview knows before anything is rented."""
        return self.offers.candidates.apply(lambda candidates: _offer_summary(candidates[0]))

    def curl(self) -> pulumi.Output[str]:
        """Return a command for bash or zsh that calls the endpoint. curl reads the key from a pipe: no secret in it."""
        stack = pulumi.get_stack()
        key = f"pulumi stack output api_key --show-secrets --stack {stack} | sed 's/^/Authorization: Bearer /'"
        trust = f" --cacert <(pulumi stack output ca_certificate --stack {stack})"
        body = (
            '{"query": "What is deep learning?", "documents": ["Deep learning is machine learning.", "I like pizza."]}'
        )
        return pulumi.Output.all(self.url, self.ca_certificate).apply(
            lambda values: (
                f"curl -s{trust if values[1] else ''} {values[0]}/rerank -H 'Content-Type: application/json' "
                f"-H @<({key}) -d '{body}'"
            )
        )

    def hourly_cost_usd(self) -> pulumi.Output[dict[str, float]]:
        """Return dollars per hour of all rented instances: gpu, disk and total."""
        return pulumi.Output.all(*(instance.hourly_cost_usd for instance in self.instances)).apply(_sum)

    def monthly_cost_usd(self) -> pulumi.Output[float]:
        return self.hourly_cost_usd().apply(monthly_cost)

    def table(self) -> pulumi.Output[list[dict[str, Any]]]:
        hidden = ("name", "nonce")
        return self.rows.apply(lambda rows: [{key: row[key] for key in row if key not in hidden} for row in rows])

    def _gateway(
        self,
        name: str,
        common: Common,
        keys: list[pulumi.Output[str]],
        named: pulumi.Output[list[Client]],
        rented: Instance | None,
    ) -> tuple[pulumi.Output[str], Gateway]:
        """Declare the gateway and return its URL. Its Caddy serves only this stack: a running one, or `rented`."""
        from components.caddy.launch import LISTEN, SOCKETS, admin_url  # noqa: PLC0415
        from components.caddy.spec import Acme, GatewayPolicy  # noqa: PLC0415
        from components.gateway import Gateway, GatewayArgs  # noqa: PLC0415

        child = pulumi.ResourceOptions(parent=self)
        settings, config = common.settings, common.settings.config
        gateway_config = config.gateway
        policy = {"max_bytes": settings.guard_options["max_bytes"], "response_timeout_s": config.timeouts.answer_s}
        inputs: dict[str, Any] = {
            # a rename of the stack does not change this
            "site": self.offers.id.apply(lambda owner: f"{name}.{owner}"),
            # the validation's output: only validated servers get requests
            "upstreams": pulumi.Output.all(
                self.validation.urls, self.rows, common.stack_secret, common.server_key
            ).apply(_upstreams),
            "upstream_ca": self.servers_ca,
            "inbound_keys": pulumi.Output.all(*keys).apply(lambda values: [key for key in values if key]),
            "clients": named.apply(lambda clients: [{"name": item.name, "key": item.key} for item in clients]),
            "readiness": settings.model.readiness,
            "policy": structure(GatewayPolicy, gateway_config.model_dump() | policy),
            "drain_timeout_s": config.timeouts.drain_s,
        }
        url = pulumi.Output.from_input(gateway_config.url)
        if rented is not None:
            self.instances.append(rented)
            url = rented.url
            inputs |= {"listen": LISTEN, "admin_url": url.apply(admin_url), "rented": True}
            inputs |= {"sockets": SOCKETS, "admin_ca": self.servers_ca}
            inputs["admin_key"] = pulumi.Output.all(common.stack_secret, rented.nonce).apply(lambda two: own_key(*two))
        else:
            admin_key = gateway_config.admin_key.get_secret_value() if gateway_config.admin_key else ""
            inputs |= {"listen": gateway_config.listen, "admin_url": gateway_config.admin_url, "admin_key": admin_key}
            inputs["client_ca"] = config.client_ca
            ca, ca_key = common.ca_certificate, common.ca_private_key
            pem, private_key = gateway_config.certificate, gateway_config.private_key
            if pem and private_key:
                remaining_d = (expiry(pem) - time.time()) / DAY_S
                if remaining_d < config.renew.certificate_before_d:
                    text = f"gateway.certificate ends in {remaining_d:.0f} days: set the next one"
                    pulumi.log.warn(text, resource=self)
                inputs |= {"certificate": pem, "private_key": private_key.get_secret_value()}
            elif gateway_config.acme:
                inputs |= {"acme": structure(Acme, gateway_config.acme.model_dump())}
                inputs |= {"url": gateway_config.url, "ca_certificate": gateway_config.ca_certificate}
            elif ca is not None and ca_key is not None and not gateway_config.has_other_certificate:
                authority = {"certificate": ca, "private_key": ca_key}
                host, renew = urlsplit(gateway_config.url).hostname or "", config.renew.certificate_before_d
                certificate = ServerCertificate(f"{name}-certificate", [host], authority, renew, child)
                inputs |= {"certificate": certificate.certificate, "private_key": certificate.private_key}
        # deleted first: its protection refuses a destroy before anything is lost
        options = pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(protect=config.protect))
        gateway = Gateway(name, GatewayArgs(**inputs), options)
        return _after(url, gateway).apply(str), gateway

    def _rent_gateway(self, name: str, common: Common) -> Instance:
        from components.caddy.launch import ADMIN_KEY_ENV, DISK_GB, QUERY, admin_probe, plan_gateway_launch  # noqa: PLC0415

        child = pulumi.ResourceOptions(parent=self)
        settings, config = common.settings, common.settings.config
        launch = plan_gateway_launch(client_ca=config.client_ca)
        offers = OfferQuery(
            f"{name}-offers",
            Search(
                query=QUERY,
                # the gateway sees documents unencrypted, so the rerankers' limits apply to its machine
                constraints=settings.policy_constraints,
                disk_gb=DISK_GB,
                pull_gb=0.1,
                start_s=20.0,
                prefer="cheapest",
            ),
            [f"{name}-instance"],
            child,
        )
        return declare_instance(
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
    """Return the keys of clients, the current key first: those of the config, or generated ones."""
    if config.api_key is None:
        generation, keep = config.api_key_generation, config.keep_previous_key
        key = ApiKey(f"{name}-key", opts, generation=generation, keep_previous=keep)
        return [key.value, key.previous]
    configured = (config.api_key, config.api_key_previous)
    return [pulumi.Output.secret(key.get_secret_value()) for key in configured if key]


def _after(value: pulumi.Output[T], resource: pulumi.CustomResource) -> pulumi.Output[T]:
    """Return `value`, known after `resource` is created."""
    return pulumi.Output.all(value, resource.id).apply(lambda values: cast(T, values[0]))


def _permitted(config: Config) -> list[str]:
    """Return the names that the stack's CA may sign besides internet servers: gateway host, emulator's machines."""
    host = urlsplit(config.gateway.url).hostname if config.gateway.kind == "caddy" else None
    return [*([host] if host else []), *(["127.0.0.0/8"] if is_loopback(config.emulator.url) else [])]


def _rows(names: Sequence[str], instances: Sequence[Instance]) -> pulumi.Output[list[dict[str, Any]]]:
    facts = [pulumi.Output.all(**{fact: getattr(instance, fact) for fact in FACTS}) for instance in instances]

    def row(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        total = values["hourly_cost_usd"]["total"]
        return {"name": name, **values, "server_name": server_name(values["nonce"]), "hourly_cost_usd": total}

    return pulumi.Output.all(*facts).apply(lambda values: list(map(row, names, values)))


def _upstreams(values: Sequence[Any]) -> list[dict[str, str]]:
    """Return the gateway's upstreams: each server with its own key, or with vLLM's key if there is no guard."""
    urls, rows, secret, server_key = values
    return [
        {"address": url, "key": server_key or own_key(secret, row["nonce"]), "server_name": row["server_name"]}
        for url, row in zip(urls, rows, strict=True)
    ]


def _sum(costs: list[Mapping[str, float]]) -> dict[str, float]:
    return {part: round(sum(cost[part] for cost in costs), 5) for part in ("gpu", "disk", "total")}


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
    summary = {name: candidate.get(key) for key, name in names.items()}
    return summary | {"dph_total_usd": round(float(candidate.get("dph_total") or 0.0), 4)}
