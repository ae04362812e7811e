"""The Pulumi program of a stack: config -> RerankerFleet -> outputs."""

import datetime
import os
import sys
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.config import get_config_env

from components.errors import StateError, VastRerankerError
from components.fleet import RerankerFleet
from components.program_config import keys_in_clear, misplaced_keys, stack_config
from components.replica_count import present_replicas
from components.settings import emulator_hub_reachable, load
from components.state_folder import room_problem, state_folder
from components.vllm.catalog import load_catalog
from policy.limits import load_limits

ERROR_WAS_SHOWN = 32  # tells Pulumi's language host that the error is already reported

state = state_folder(os.environ, Path())
if problem := room_problem(state) if state else "":
    if not pulumi.runtime.is_dry_run():
        pulumi.log.error(f"{StateError.__name__}: nothing is rented: {problem}")
        sys.exit(ERROR_WAS_SHOWN)
    pulumi.log.warn(problem)
try:
    settings = load(
        stack_config(),
        load_catalog(),
        hub_reachable=emulator_hub_reachable,
        limits=load_limits(pulumi.get_stack()),
        in_clear=keys_in_clear(),
        misplaced=misplaced_keys(get_config_env(), pulumi.get_project()),
        present=present_replicas,
    )
except (VastRerankerError, ValueError) as error:
    kind = type(error).__name__ if isinstance(error, VastRerankerError) else "ConfigError"
    pulumi.log.error(f"{kind}: this stack's config is refused; nothing is rented:\n{error}")
    sys.exit(ERROR_WAS_SHOWN)
fleet = RerankerFleet("reranker", settings)


def first_replica(output: str) -> object:
    """Return an output of the first replica, or None without replicas; `replicas` has the outputs of all."""
    return getattr(fleet.replicas[0], output) if fleet.replicas else None


def to_utc(epoch_s: Any) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC."""
    return datetime.datetime.fromtimestamp(epoch_s, datetime.UTC).isoformat(timespec="seconds") if epoch_s else None


pulumi.export("url", fleet.url)
pulumi.export("api_key", fleet.api_key)
pulumi.export("client_keys", fleet.client_keys)
pulumi.export("ca_certificate", fleet.ca_certificate)
pulumi.export("servers_ca_certificate", fleet.servers_ca)
pulumi.export("model", settings.model.name)
pulumi.export("replicas", fleet.table())
pulumi.export("offer", fleet.first_choice())
pulumi.export("hourly_cost_usd", fleet.hourly_cost_usd())
pulumi.export("monthly_cost_usd", fleet.monthly_cost_usd())
pulumi.export("curl", fleet.curl())
pulumi.export("validation", fleet.validation.summary)
pulumi.export("ip", first_replica("ip"))
pulumi.export("port", first_replica("port"))
pulumi.export("instance_id", first_replica("instance_id"))
pulumi.export("machine_id", first_replica("machine_id"))
pulumi.export("gpu", first_replica("gpu"))
pulumi.export("bandwidth_cost_usd_gb", first_replica("bandwidth_cost_usd_gb"))
pulumi.export("pull_cost_usd", first_replica("pull_cost_usd"))
pulumi.export("certificate_expires_at", pulumi.Output.from_input(first_replica("certificate_expires_at")).apply(to_utc))
pulumi.export("rejected_machines", first_replica("rejected_machines"))
