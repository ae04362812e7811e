"""Reranker: the whole flow as one component. Keys -> offers -> instance -> validation; used by `__main__.py`."""

from __future__ import annotations

from typing import Any

import pulumi

from components.credentials import ApiKey
from components.instance import Instance, InstanceArgs
from components.offers import OfferQuery, OfferQueryArgs
from components.settings import Settings
from components.validation import RerankValidation, RerankValidationArgs
from components.vast.ranking import START_S
from components.vllm.launch import SPEC_FAULT_LOGS, key_env, plan_launch

PORT = 8000
OPEN_DOORS = (
    "guard is off: /rerank, /score, /metrics and the documentation answer anyone who finds the port; "
    "vLLM's own key covers /v1 and /v2 only"
)


class Reranker(pulumi.ComponentResource):
    """A reranker on a rented GPU: rented, serving, validated."""

    url: pulumi.Output[str]
    api_key: pulumi.Output[str]
    instance: Instance
    offers: OfferQuery
    validation: RerankValidation

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("vast:index:Reranker", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        model, image = settings.model, settings.image

        if settings.api_key is None:
            self.api_key = ApiKey(f"{name}-key", own).value
        else:
            self.api_key = pulumi.Output.secret(settings.api_key)

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
            guard=settings.guard,
        )
        key_name = key_env(guard=settings.guard)
        if not settings.guard:
            pulumi.log.warn(OPEN_DOORS, resource=self)
        env: dict[str, pulumi.Input[str]] = {**launch.env, key_name: self.api_key}
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
                probe=rerank_probe(model.name, key_name, settings.probe_timeout_s),
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
            ),
            own,
        )
        self.url = self.instance.url

        self.validation = RerankValidation(
            f"{name}-validation",
            RerankValidationArgs(
                url=self.url,
                api_key=self.api_key,
                model=model.name,
                instance_id=self.instance.instance_id,
                guard=settings.guard,
            ),
            own,
        )
        self.register_outputs({"url": self.url})

    def first_choice(self) -> pulumi.Output[dict[str, Any]]:
        """Return the offer at the top of the list: known in a preview, before anything is rented."""
        return self.offers.candidates.apply(lambda found: _in_short(found[0]))

    def curl(self) -> pulumi.Output[str]:
        """Return a command that tries the endpoint; it reads the key from the stack, so it holds no secret."""
        key = f"$(pulumi stack output api_key --show-secrets --stack {pulumi.get_stack()})"
        body = (
            '{"query": "What is deep learning?", "documents": ["Deep learning is machine learning.", "I like pizza."]}'
        )
        return self.url.apply(
            lambda url: (
                f"curl -s {url}/rerank -H 'Content-Type: application/json' "
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


def rerank_probe(model: str, key_name: str, timeout_s: float) -> dict[str, Any]:
    """Return the readiness probe of a reranker: one scored pair. `/health` says 200 on a dead engine."""
    return {
        "port": PORT,
        "method": "POST",
        "path": "/rerank",
        "headers": {"Authorization": f"Bearer ${{{key_name}}}"},
        "body": {"model": model, "query": "ready?", "documents": ["yes"]},
        "expect_body": '"relevance_score"',
        "timeout_s": timeout_s,
    }
