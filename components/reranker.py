"""Reranker: the whole flow as one component. Keys -> offers -> instance -> validation; used by `__main__.py`."""

from __future__ import annotations

from typing import Any

import pulumi

from components.credentials import ApiKey, CertificateAuthority
from components.instance import Instance, InstanceArgs
from components.keyring import KeyRing, KeyRingArgs
from components.offers import OfferQuery, OfferQueryArgs
from components.settings import Access, Settings
from components.validation import RerankValidation, RerankValidationArgs
from components.vast.ranking import START_S
from components.vllm.launch import SPEC_FAULT_LOGS, key_env, plan_launch

PORT = 8000
OPEN_DOORS = (
    "guard is off: /rerank, /score, /metrics and the documentation answer anyone who finds the port; "
    "vLLM's own key covers /v1 and /v2 only"
)
IN_CLEAR = (
    "tls is off: the key, every query and every document cross the internet in clear, for every network on the way "
    "to read"
)


class Reranker(pulumi.ComponentResource):
    """A reranker on a rented GPU: rented, serving, validated."""

    url: pulumi.Output[str]
    api_key: pulumi.Output[str]
    ca_certificate: pulumi.Output[str]
    instance: Instance
    offers: OfferQuery
    validation: RerankValidation

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("vast:index:Reranker", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        model, image, access = settings.model, settings.image, settings.access
        for on, warning in ((access.guard, OPEN_DOORS), (access.tls, IN_CLEAR)):
            if not on:
                pulumi.log.warn(warning, resource=self)
        keys = client_keys(name, access, own)
        authority: dict[str, pulumi.Input[str]] | None = None
        self.ca_certificate = pulumi.Output.from_input("")
        if access.tls:
            made = CertificateAuthority(f"{name}-ca", f"{pulumi.get_project()} {pulumi.get_stack()} {name}", own)
            authority = {"certificate": made.certificate, "private_key": made.private_key}
            self.ca_certificate = made.certificate

        self.offers = OfferQuery(
            f"{name}-offers",
            OfferQueryArgs(
                query=settings.query,
                constraints=[vars(one) for one in settings.constraints],
                disk_gb=settings.disk_gb,
                pull_gb=image.download_gb + model.weights_gb,
                start_s=START_S,
                prefer=settings.prefer,
                offer_type=settings.offer_type,
            ),
            own,
        )

        launch = plan_launch(
            model,
            image,
            port=PORT,
            api_key=None,
            dtype=settings.dtype,
            extra_args=settings.extra_args,
            form=settings.form,
            guard=access.guard,
            guard_options=access.guard_options,
            tls=access.tls,
        )
        # with a guard, the container is given the stack's own key, and the ring tells it which others are valid
        key_name = key_env(guard=access.guard)
        own_key = ApiKey(f"{name}-own-key", own).value if access.guard else keys[0]
        env: dict[str, pulumi.Input[str]] = {**launch.env, key_name: own_key}
        if settings.hub_token is not None:
            env["HF_TOKEN"] = pulumi.Output.secret(settings.hub_token)
        self.instance = Instance(
            name,
            InstanceArgs(
                label_base=f"{pulumi.get_project()}/{pulumi.get_stack()}/{name}",
                owner=self.offers.id,
                search=self.offers.search,
                candidates=self.offers.candidates,
                searched_at=self.offers.searched_at,
                image=launch.image,
                disk_gb=settings.disk_gb,
                ports=list(launch.ports),
                runtype=launch.runtype,
                onstart=launch.onstart,
                args=list(launch.args),
                env=env,
                image_login=settings.image_login,
                authority=authority,
                probe=rerank_probe(model.name, key_name, settings.probe_timeout_s, self.ca_certificate),
                deadlines=settings.deadlines,
                watch=settings.watch,
                max_tries=settings.max_tries,
                poll_s=settings.poll_s,
                hedge=settings.hedge,
                replace=settings.replace,
                money=settings.money,
                bid=settings.bid,
                adopt_instance_id=settings.adopt_instance_id,
                spec_fault_logs=list(SPEC_FAULT_LOGS),
                policy=settings.policy,
            ),
            own,
        )
        self.url = self.instance.url
        self.api_key = keys[0]
        if access.guard:
            ring = KeyRing(
                f"{name}-keys",
                KeyRingArgs(
                    url=self.url,
                    instance_id=self.instance.instance_id,
                    own_key=own_key,
                    keys=keys,
                    ca_certificate=self.ca_certificate,
                ),
                own,
            )
            self.api_key = ring.current

        self.validation = RerankValidation(
            f"{name}-validation",
            RerankValidationArgs(
                url=self.url,
                api_key=self.api_key,
                model=model.name,
                instance_id=self.instance.instance_id,
                guard=access.guard,
                ca_certificate=self.ca_certificate,
                max_latency_ms=settings.max_latency_ms,
            ),
            # A destroy begins here, so this stops all of it. A protected instance could not be replaced when it dies.
            pulumi.ResourceOptions.merge(own, pulumi.ResourceOptions(protect=settings.protect)),
        )
        self.register_outputs({"url": self.url})

    def first_choice(self) -> pulumi.Output[dict[str, Any]]:
        """Return the offer at the top of the list: known in a preview, before anything is rented."""
        return self.offers.candidates.apply(lambda found: _in_short(found[0]))

    def curl(self) -> pulumi.Output[str]:
        """Return a command that tries the endpoint; it reads the key from the stack, so it holds no secret."""
        stack = pulumi.get_stack()
        key = f"$(pulumi stack output api_key --show-secrets --stack {stack})"
        trust = f" --cacert <(pulumi stack output ca_certificate --stack {stack})"
        body = (
            '{"query": "What is deep learning?", "documents": ["Deep learning is machine learning.", "I like pizza."]}'
        )
        return self.url.apply(
            lambda url: (
                f"curl -s{trust if url.startswith('https:') else ''} {url}/rerank -H 'Content-Type: application/json' "
                f"-H \"Authorization: Bearer {key}\" -d '{body}'"
            )
        )


def _in_short(candidate: dict[str, Any]) -> dict[str, Any]:
    names = {
        "ask_contract_id": "offer_id",
        "machine_id": "machine_id",
        "gpu_name": "gpu",
        "geolocation": "geolocation",
        "dph_total": "dph_total_usd",
        "pull_cost_usd": "pull_cost_usd",
        "ready_s": "ready_s",
    }
    return {name: candidate.get(key) for key, name in names.items()}


def client_keys(name: str, access: Access, opts: pulumi.ResourceOptions) -> list[pulumi.Output[str]]:
    """Return the keys that clients may present, the current one first: the config's, or made here."""
    if access.key is None:
        made = ApiKey(f"{name}-key", opts, generation=access.generation, keep_previous=access.keep_previous)
        return [made.value, made.previous]
    return [pulumi.Output.secret(key) for key in (access.key, access.previous_key) if key]


def rerank_probe(model: str, key_name: str, timeout_s: float, ca_certificate: pulumi.Input[str] = "") -> dict[str, Any]:
    """Return the readiness probe of a reranker: one scored pair. `/health` says 200 on a dead engine."""
    return {
        "port": PORT,
        "method": "POST",
        "path": "/rerank",
        "headers": {"Authorization": f"Bearer ${{{key_name}}}"},
        "body": {"model": model, "query": "ready?", "documents": ["yes"]},
        "expect_body": '"relevance_score"',
        "ca_certificate": ca_certificate,
        "timeout_s": timeout_s,
    }
