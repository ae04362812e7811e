"""What the wire carries: contracts, users and lists as the API shapes them. Pure; called by `routes`."""

from __future__ import annotations

from typing import Any

from emulator.contract import Contract
from emulator.market import Machine


def instance(contract: Contract, machine: Machine, now: float) -> dict[str, Any]:
    """Return an instance as reads and lists show it; addresses are there only while it runs."""
    offer = machine.offer(now=now, storage_gb=float(contract.body.get("disk") or 10))
    running = contract.actual_status == "running"
    shown = {key: value for key, value in offer.items() if key not in ("id", "ask_contract_id", "rentable", "rented")}
    base = contract.price_usd if contract.is_bid else contract.dph_base_usd
    ports = {f"{inner}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(outer)}] for inner, outer in contract.ports.items()}  # noqa: S104
    if contract.boot_fault == "port_never_mapped":
        ports = {}
    return shown | {
        "id": contract.id,
        "label": contract.label or None,
        "actual_status": contract.actual_status,
        "intended_status": contract.intended_status,
        "cur_state": contract.cur_state,
        "next_state": contract.next_state,
        "status_msg": contract.status_msg,
        "image_uuid": contract.image,
        "image_args": contract.body.get("args") or [],
        "image_runtype": contract.body.get("runtype") or "args",
        "onstart": contract.body.get("onstart"),
        "extra_env": [[key, value] for key, value in (contract.body.get("env") or {}).items()],
        "dph_base": base,
        "dph_total": base + contract.dph_disk_usd,
        "storage_total_cost": contract.dph_disk_usd,
        "is_bid": contract.is_bid,
        "start_date": contract.rented_at,
        "end_date": contract.end_date,
        "duration": max(contract.end_date - now, 0.0),
        "public_ipaddr": f"{machine.ip}\n" if running else None,
        "ports": ports if running else None,
        "ssh_host": "ssh1.vast.ai",
        "ssh_port": 10000 + contract.id % 20000,
        "ssh_idx": "1",
        "disk_space": float(contract.body.get("disk") or 10),
        "disk_usage": 1.0,
        "cpu_util": 0.0,
        "gpu_util": 0.0,
        "gpu_temp": 40.0,
        "uptime_mins": (now - contract.rented_at) / 60,
    }


def user(credit_usd: float) -> dict[str, Any]:
    """Return the account behind the key."""
    return {
        "id": 1001,
        "credit": round(credit_usd, 6),
        "balance": 0.0,
        "email": "someone@example.com",
        "username": "someone",
        "fullname": "Some One",
        "ssh_key": None,
        "host_agreement_accepted": False,
        "has_billing": True,
    }
