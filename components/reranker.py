"""Reranker: one server as a component. Instance -> keys -> validation; a RerankerFleet makes one for each replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi

from components.instance import Instance, InstanceArgs
from components.keyring import KeyRing, KeyRingArgs
from components.offers import OfferQuery
from components.settings import Settings
from components.validation import RerankValidation, RerankValidationArgs
from components.vast.dealing import Share, Spread, share_of
from components.vllm.launch import SPEC_FAULT_LOGS, key_env, plan_launch

PORT = 8000


@dataclass(frozen=True)
class Common:
    """What all rerankers of a stack have in common.

    `client_keys`: what clients may present at the servers themselves, the current one first; none where they come in
    by a gateway. `own_key`: the stack's own, secret. `authority`: signs the servers' certificates; None without TLS.
    """

    settings: Settings
    offers: OfferQuery
    own_key: pulumi.Output[str]
    client_keys: Sequence[pulumi.Output[str]]
    authority: dict[str, pulumi.Input[str]] | None
    ca_certificate: pulumi.Output[str]


class Reranker(pulumi.ComponentResource):
    """A reranker on a rented GPU: rented, serving, validated.

    `api_key`: the client key that it accepts (its own key where it has no others). `served_url`: its address, known
    once it is validated.
    """

    url: pulumi.Output[str]
    served_url: pulumi.Output[str]
    api_key: pulumi.Output[str]
    instance: Instance
    validation: RerankValidation

    def __init__(
        self, name: str, common: Common, *, index: int = 0, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("vast:index:Reranker", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        settings, access, fleet = common.settings, common.settings.access, common.settings.fleet
        model = settings.model
        launch = plan_launch(
            model,
            settings.image,
            port=PORT,
            api_key=None,
            dtype=settings.dtype,
            extra_args=settings.extra_args,
            form=settings.form,
            guard=access.guard,
            guard_options=access.guard_options,
            tls=access.tls,
        )
        share = Share(index, fleet.replicas, cast(Spread, fleet.spread))
        key_name = key_env(guard=access.guard)
        env: dict[str, pulumi.Input[str]] = {**launch.env, key_name: common.own_key}
        if settings.hub_token is not None:
            env["HF_TOKEN"] = pulumi.Output.secret(settings.hub_token)
        self.instance = Instance(
            name,
            InstanceArgs(
                label_base=f"{pulumi.get_project()}/{pulumi.get_stack()}/{name}",
                owner=common.offers.id,
                search=common.offers.search,
                candidates=common.offers.candidates.apply(lambda found: share_of(found, share)),
                searched_at=common.offers.searched_at,
                image=launch.image,
                disk_gb=settings.disk_gb,
                ports=list(launch.ports),
                runtype=launch.runtype,
                onstart=launch.onstart,
                args=list(launch.args),
                env=env,
                image_login=settings.image_login,
                authority=common.authority,
                probe=rerank_probe(model.name, key_name, settings.probe_timeout_s, common.ca_certificate),
                deadlines=settings.deadlines,
                watch=settings.watch,
                max_tries=settings.max_tries,
                poll_s=settings.poll_s,
                hedge=settings.hedge,
                replace=settings.replace,
                money=settings.money,
                bid=settings.bid,
                adopt_instance_id=settings.adopt_instance_id if index == 0 else None,
                spec_fault_logs=list(SPEC_FAULT_LOGS),
                share=vars(share),
                policy=settings.policy,
            ),
            own,
        )
        self.url = self.instance.url
        self.api_key = common.own_key
        if common.client_keys:
            ring = KeyRing(
                f"{name}-keys",
                KeyRingArgs(
                    url=self.url,
                    instance_id=self.instance.instance_id,
                    own_key=common.own_key,
                    keys=common.client_keys,
                    ca_certificate=common.ca_certificate,
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
                ca_certificate=common.ca_certificate,
                max_latency_ms=settings.max_latency_ms,
            ),
            # A destroy begins here, so this stops all of it. A protected instance could not be replaced when it dies.
            pulumi.ResourceOptions.merge(own, pulumi.ResourceOptions(protect=settings.protect)),
        )
        self.served_url = self.validation.url
        self.register_outputs({"url": self.url})


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
