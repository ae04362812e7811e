"""The stack, as a table of contents: config -> Reranker -> outputs."""

import pulumi

from components.errors import ConfigError
from components.reranker import Reranker
from components.settings import emulator_hub_reachable, keys_in_clear, load, stack_config
from components.vllm.catalog import load_catalog

try:
    settings = load(stack_config(), load_catalog(), hub_reachable=emulator_hub_reachable, in_clear=keys_in_clear())
except ConfigError as error:
    raise pulumi.RunError(f"this stack's config is refused; nothing is rented:\n{error}") from None
reranker = Reranker("reranker", settings)
instance = reranker.instance

pulumi.export("url", reranker.url)
pulumi.export("ip", instance.ip)
pulumi.export("port", instance.port)
pulumi.export("api_key", reranker.api_key)
pulumi.export("ca_certificate", reranker.ca_certificate)
pulumi.export("model", settings.model.name)
pulumi.export("instance_id", instance.instance_id)
pulumi.export("machine_id", instance.machine_id)
pulumi.export("gpu", instance.gpu)
pulumi.export("offer", reranker.first_choice())
pulumi.export("hourly_cost_usd", instance.hourly_cost_usd)
pulumi.export("monthly_cost_usd", instance.monthly_cost_usd)
pulumi.export("bandwidth_cost_usd_gb", instance.bandwidth_cost_usd_gb)
pulumi.export("pull_cost_usd", instance.pull_cost_usd)
pulumi.export("certificate_expires_at", instance.certificate_expires_at)
pulumi.export("rejected_machines", instance.rejected_machines)
pulumi.export("validation", reranker.validation.summary)
pulumi.export("curl", reranker.curl())
