"""Facts of an Instance resource, read off its inputs. Called by the resource's own `check` and by the policy pack.

The keys are those of components.instance.InstanceArgs. What is not known yet (in a preview) is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy.rules import Facts

INSTANCE = "pulumi-python:dynamic:Instance"
VALIDATION = "pulumi-python:dynamic:Validation"
GATEWAY = "pulumi-python:dynamic:Gateway"
# What the readiness probe presents to a server without a guard: vLLM's own key, which covers /v1 and /v2 only.
VLLM_OWN_KEY = "VLLM_API_KEY"


def instance_facts(
    inputs: Mapping[str, Any], offers: Sequence[Mapping[str, Any]] = (), *, tls: bool | None = None
) -> Facts:
    """Return what an instance is asked to be. `offers`: what it may rent; `tls`: whether its server is asked by TLS."""
    probe = inputs.get("probe")
    presents = str(((probe or {}).get("headers") or {}).get("Authorization") or "")
    disk_gb = inputs.get("disk_gb")
    bid = inputs.get("bid") or {}
    machines = int(inputs.get("hedge") or 1) * int((inputs.get("slot") or {}).get("of") or 1)
    price = bid.get("price_usd")
    return Facts(
        image=None if inputs.get("image") is None else str(inputs["image"]),
        tls=tls,
        guard=None if probe is None else bool(presents) and VLLM_OWN_KEY not in presents,
        interruptible=bool(bid),
        label=str(inputs.get("label_base") or ""),
        disk_gb=None if disk_gb is None else float(disk_gb),
        asks_hourly_usd=None if price is None else float(price) * machines,
        offers=offers,
        machines=machines,
    )
