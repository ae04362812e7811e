"""The Instance of one server of a fleet, from the stack's settings. Called by RerankerFleet for each replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from components.container_files import digests
from components.guard.rules import CERTIFICATE
from components.instance import Instance, InstanceArgs
from components.offers import OfferQuery
from components.settings import Settings
from components.vast.assignment import ReplicaSlot
from components.vast.money import Budget
from components.vast.probe import HttpProbe
from components.vllm.catalog import Model
from components.vllm.launch import SPEC_FAULT_LOGS, Launch, key_env, plan_launch

PORT = 8000


@dataclass(frozen=True)
class Common:
    """Inputs that all servers of a stack share.

    `stack_secret`: the source of each server's own key. `server_key`: vLLM's key, secret; None with a guard.
    `ca_certificate` and `ca_private_key`: sign the servers' certificates; None without TLS.
    """

    settings: Settings
    launch: Launch
    offers: OfferQuery
    stack_secret: pulumi.Output[str]
    server_key: pulumi.Output[str] | None = None
    ca_certificate: pulumi.Output[str] | None = None
    ca_private_key: pulumi.Output[str] | None = None


def server_launch(settings: Settings) -> Launch:
    config = settings.config
    return plan_launch(
        settings.model,
        settings.image,
        port=PORT,
        api_key=None,
        dtype=config.dtype,
        aliases=config.served_model_names,
        extra_args=config.extra_args,
        form=config.form,
        guard=config.guard,
        guard_options=settings.guard_options,
        tls=config.tls,
    )


def declare_server(name: str, index: int, common: Common, opts: pulumi.ResourceOptions) -> Instance:
    settings, config, launch = common.settings, common.settings.config, common.launch
    key_name = key_env(guard=config.guard)
    user_env = {name: pulumi.Output.secret(value) for name, value in config.server_env().items()}
    server_key = {} if common.server_key is None else {key_name: common.server_key}
    env: dict[str, pulumi.Input[str]] = {**user_env, **launch.env, **server_key}
    return declare_instance(
        name,
        launch,
        common.offers,
        common,
        opts,
        disk_gb=config.disk_gb,
        env=env,
        key_env="" if server_key else key_name,
        certificate_path=CERTIFICATE if config.guard and config.tls else "",
        files=digests(launch.files),
        image_login=config.image_login.get_secret_value() if config.image_login else None,
        probe=rerank_probe(settings.model, key_name, config.timeouts.probe_timeout_s),
        hedge=config.hedge,
        money=Budget(config.max_hourly_usd, config.min_runway_h, config.budget_usd_month),
        bid=settings.bid,
        adopt_instance_id=config.adopt_instance_id or None if index == 0 else None,
        spec_fault_logs=list(SPEC_FAULT_LOGS),
        slot=ReplicaSlot(index, settings.replicas, config.spread),
    )


def declare_instance(
    name: str, launch: Launch, offers: OfferQuery, common: Common, opts: pulumi.ResourceOptions, **inputs: Any
) -> Instance:
    """Declare an instance that runs `launch`, for a server or a gateway. `inputs`: those that only this one has."""
    settings, config = common.settings, common.settings.config
    args = InstanceArgs(
        label_base=f"{pulumi.get_project()}/{pulumi.get_stack()}/{name}",
        owner=offers.id,
        search=offers.search_text,
        stack_secret=common.stack_secret,
        image=launch.image,
        ports=list(launch.ports),
        onstart=launch.onstart,
        args=list(launch.args),
        ca_certificate=common.ca_certificate,
        ca_private_key=common.ca_private_key,
        deadlines=settings.deadlines,
        watch=settings.watch,
        max_tries=config.max_tries,
        poll_s=config.timeouts.poll_s,
        replace=config.replace,
        policy=settings.policy,
        **inputs,
    )
    return Instance(name, args, opts)


def rerank_probe(model: Model, key_name: str, timeout_s: float) -> HttpProbe:
    """Return the readiness probe of a reranker: a pair to rank. `/health` returns 200 even if the engine is dead."""
    return HttpProbe(
        PORT,
        "POST",
        "/rerank",
        headers={"Authorization": f"Bearer ${{{key_name}}}"},
        readiness=model.readiness,
        timeout_s=timeout_s,
    )
