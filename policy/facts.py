"""Facts of an Instance resource from its inputs. Called by the resource's `check` and by the policy pack.

The keys are those of components.instance.InstanceArgs, without values that a preview does not know yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy.rules import Facts

INSTANCE = "pulumi-python:dynamic:Instance"
VALIDATION = "pulumi-python:dynamic:Validation"
GATEWAY = "pulumi-python:dynamic:Gateway"
# The probe sends this key to a server without a guard: vLLM's own key, which covers only /v1 and /v2.
VLLM_OWN_KEY = "VLLM_API_KEY"


def instance_facts(
    inputs: Mapping[str, Any], offers: Sequence[Mapping[str, Any]] = (), *, tls: bool | None = None
) -> Facts:
    """Return the facts of an instance. `offers`: candidates for rental; `tls`: whether its server uses TLS."""
    probe = inputs.get("probe")
    authorization = str(((probe or {}).get("headers") or {}).get("Authorization") or "")
    disk_gb = inputs.get("disk_gb")
    bid = inputs.get("bid") or {}
    machines = int(inputs.get("hedge") or 1) * int((inputs.get("slot") or {}).get("of") or 1)
    price = bid.get("price_usd")
    return Facts(
        image=None if inputs.get("image") is None else str(inputs["image"]),
        tls=tls,
        guard=None if probe is None else bool(authorization) and VLLM_OWN_KEY not in authorization,
        interruptible=bool(bid),
        label=str(inputs.get("label_base") or ""),
        disk_gb=None if disk_gb is None else float(disk_gb),
        config_hourly_usd=None if price is None else float(price) * machines,
        offers=offers,
        machines=machines,
    )
