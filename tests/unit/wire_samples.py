"""Offers and instances in the form of the API, for unit tests; every field can be overridden."""

from typing import Any


def offer(ask_id: int = 1001, **fields: Any) -> dict[str, Any]:
    return {
        "id": ask_id,
        "ask_contract_id": ask_id,
        "machine_id": ask_id + 5000,
        "host_id": 77,
        "gpu_name": "RTX 3060",
        "num_gpus": 1,
        "gpu_ram": 24576,
        "compute_cap": 860,
        "cuda_max_good": 12.9,
        "dph_base": 0.08,
        "dph_total": 0.09,
        "storage_cost": 0.15,
        "inet_down": 500.0,
        "inet_down_cost": 0.002,
        "inet_up_cost": 0.002,
        "reliability": 0.99,
        "direct_port_count": 20,
        "static_ip": True,
        "public_ipaddr": "127.0.1.9\n",
        "geolocation": "Sweden, SE",
        "end_date": 2_000_000_000.0,
        "verification": "verified",
        "hosting_type": 0,
        "disk_space": 200.0,
        "min_bid": 0.03,
        "rentable": True,
    } | fields


def instance(instance_id: int = 9001, **fields: Any) -> dict[str, Any]:
    return {
        "id": instance_id,
        "machine_id": 6001,
        "host_id": 77,
        "label": "",
        "actual_status": "running",
        "intended_status": "running",
        "cur_state": "running",
        "next_state": "running",
        "status_msg": "success, running vllm\n",
        "public_ipaddr": "127.0.1.9\n",
        "ports": {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40123"}]},
        "image_uuid": "vllm/vllm-openai:v0.19.1",
        "gpu_name": "RTX 3060",
        "num_gpus": 1,
        "dph_total": 0.09,
        "dph_base": 0.08,
        "storage_cost": 0.15,
        "is_bid": False,
        "start_date": 1_900_000_000.0,
        "end_date": 2_000_000_000.0,
    } | fields
