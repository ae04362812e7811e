"""Prometheus' files for a stack: scrape config, targets, and prices as recording rules. Pure; called by ops.metrics.

Keys and CAs are named by file, never written. Replicas are scraped at their own addresses, since a scrape through the
gateway would meet another replica each time; the gateway's own /metrics is Caddy's. vLLM counts each scored pair as one
request (`vllm:request_success_total`), so dollars per million pairs is the price per hour over the pairs of an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.vast.identity import SERVER_NAME

REPLICAS, GATEWAY = "reranker", "reranker-gateway"
PRICE = "reranker:hourly_cost_usd"  # a recording rule of our own, by replica


@dataclass(frozen=True)
class Replica:
    """One rented server: its name in the stack, host:port, and what it costs, in dollars per hour."""

    name: str
    address: str
    hourly_cost_usd: float
    gpu: str = ""
    machine_id: int = 0


@dataclass(frozen=True)
class Access:
    """Where Prometheus finds what it needs for one job: files with the key, and with the CA (none for plain HTTP)."""

    key_file: str
    ca_file: str = ""
    server_name: str = SERVER_NAME


def scrape_config(
    stack: str, *, targets_file: str, rules_file: str, replicas: Access, gateway: Access | None, every_s: int = 15
) -> dict[str, Any]:
    """Return prometheus.yml: one job for the replicas, one for the gateway if there is one."""
    jobs = [_job(REPLICAS, stack, targets_file, replicas)]
    if gateway is not None:
        jobs.append(_job(GATEWAY, stack, targets_file, gateway))
    return {
        "global": {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"},
        "rule_files": [rules_file],
        "scrape_configs": jobs,
    }


def _job(name: str, stack: str, targets_file: str, access: Access) -> dict[str, Any]:
    tls = {"ca_file": access.ca_file, "server_name": access.server_name}
    return {
        "job_name": name,
        "scheme": "https" if access.ca_file else "http",
        "authorization": {"type": "Bearer", "credentials_file": access.key_file},
        **({"tls_config": tls} if access.ca_file else {}),
        "file_sd_configs": [{"files": [targets_file], "refresh_interval": "30s"}],
        # one file holds the targets of both jobs
        "relabel_configs": [
            {"source_labels": ["job_of"], "regex": name, "action": "keep"},
            {"regex": "job_of", "action": "labeldrop"},
            {"target_label": "stack", "replacement": stack},
        ],
    }


def targets(replicas: Sequence[Replica], gateway_address: str = "") -> list[dict[str, Any]]:
    """Return the file_sd file: written anew when the fleet changes, read by Prometheus without a restart."""
    found = [
        {
            "targets": [one.address],
            "labels": {"job_of": REPLICAS, "replica": one.name, "gpu": one.gpu, "machine_id": str(one.machine_id)},
        }
        for one in replicas
    ]
    if gateway_address:
        found.append({"targets": [gateway_address], "labels": {"job_of": GATEWAY}})
    return found


def price_rules(stack: str, replicas: Sequence[Replica]) -> dict[str, Any]:
    """Return the rules file: the price of each replica as a constant series."""
    rules: list[Mapping[str, Any]] = [
        {
            "record": PRICE,
            "expr": f"vector({one.hourly_cost_usd:.6f})",
            "labels": {"stack": stack, "replica": one.name},
        }
        for one in replicas
    ]
    return {"groups": [{"name": "reranker-prices", "rules": rules}]}
