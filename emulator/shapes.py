"""The JSON objects of the API: instances, user, charges. Pure functions, called by `*_routes`."""

from __future__ import annotations

from typing import Any

from emulator.account import KEY_ID, USER_ID, Account
from emulator.contract import Contract
from emulator.market import Machine, hourly_price
from emulator.rental import disk_gb, parse_args, resolve_runtype

# Fields of an offer that an instance does not have.
OFFER_ONLY = ("id", "ask_contract_id", "rented", "rn", "bundled_results", "discounted_dph_total", "dph_total_adj")


def instance(contract: Contract, machine: Machine, now: float) -> dict[str, Any]:
    """Return an instance. Its address and ports are null unless it runs."""
    offer = machine.offer(now=now, storage_gb=disk_gb(contract.body))
    running = contract.actual_status == "running"
    facts = {key: value for key, value in offer.items() if key not in OFFER_ONLY}
    base = contract.gpu_dph_usd
    total = base + contract.dph_disk_usd
    ports = {f"{inner}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(outer)}] for inner, outer in contract.ports.items()}  # noqa: S104
    if contract.boot_fault == "port_never_mapped":
        ports = {}
    up_mins = (now - contract.running_since) / 60 if contract.running_since is not None else None
    return facts | {
        "id": contract.id,
        "label": contract.label or None,
        "actual_status": contract.actual_status,
        "intended_status": contract.intended_status,
        "cur_state": contract.cur_state,
        "next_state": contract.next_state,
        "status_msg": contract.status_msg,
        "image_uuid": contract.image,
        "image_args": parse_args(contract.body),
        "image_runtype": resolve_runtype(contract.body),
        "onstart": contract.body.get("onstart"),
        "extra_env": [[key, value] for key, value in (contract.body.get("env") or {}).items()],
        "dph_base": base,
        "dph_total": total,
        "search": hourly_price(base, contract.dph_disk_usd),
        "instance": hourly_price(base if running else 0.0, contract.dph_disk_usd),
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
        "disk_space": disk_gb(contract.body),
        "disk_usage": 1.0,
        "cpu_util": 0.0,
        "gpu_util": 0.0,
        "gpu_temp": 40.0,
        "uptime_mins": up_mins,
        "gpu_totalram": offer["gpu_total_ram"],
        "disk_util": -1.0,
        "mem_limit": None,
        "mem_usage": None,
        "vmem_usage": None,
        "local_ipaddrs": f"{machine.ip} \n",
        "template_id": contract.body.get("template_id"),
        "template_hash_id": contract.body.get("template_hash_id"),
        "template_name": contract.body.get("template_name"),
        "country_code": offer["geolocation"][-2:],
        "volume_info": [],
        "jupyter_token": "",
        "machine_dir_ssh_port": 0,
        "credit_balance": contract.deposit_usd(now) or None,
        "credit_discount": contract.discount_rate() or None,
        "client_run_time": 1.1,
        "host_run_time": 2592000.0,
        "direct_port_start": -1,
        "direct_port_end": -1,
    }


def user(credit_usd: float, account: Account) -> dict[str, Any]:
    """Return the user of the account."""
    return {
        "id": USER_ID,
        "key_id": KEY_ID,
        "sid": "S1001",
        "credit": round(credit_usd, 6),
        "balance": 0.0,
        "email": "someone@example.com",
        "username": "someone",
        "fullname": "Some One",
        "ssh_key": account.ssh_keys[0]["key"] if account.ssh_keys else "",
        "host_agreement_accepted": False,
        "has_billing": True,
    }


def price_increase(contract: Contract, machine: Machine) -> dict[str, Any]:
    """Return the announcement of a higher price. Its id is the contract's id: a contract has at most one."""
    announced = contract.announced_dph_usd
    return {
        "pending_price_increase_id": contract.id,
        "contract_id": contract.id,
        "host_id": machine.host_id,
        "old_gpu_costpersec": contract.dph_base_usd / 3600,
        "new_gpu_costpersec": None if announced is None else announced / 3600,
        "old_disk_ram_costpersec": contract.dph_disk_usd / 3600,
        "new_disk_ram_costpersec": contract.dph_disk_usd / 3600,
        "old_bwu_cost": machine.facts["inet_up_cost"],
        "new_bwu_cost": None,
        "old_bwd_cost": machine.facts["inet_down_cost"],
        "new_bwd_cost": None,
        "old_platform_fee": None,
        "new_platform_fee": None,
        "contract_end_date": contract.end_date,
        "ask_end_date": machine.end_date,
        "created_at": contract.rented_at,
    }


def deposit(contract: Contract, now: float) -> dict[str, Any]:
    """Return the remaining deposit."""
    remaining = contract.deposit_usd(now)
    months = contract.prepaid_months() * remaining / contract.prepaid_usd if contract.prepaid_usd else 0.0
    return {"success": True, "refundable_deposit": remaining, "total_discount": 0.0, "discount_months": months}


def charge(contract: Contract, now: float) -> dict[str, Any]:
    """Return the cost of a contract as an entry of the list of charges."""
    start, end = contract.rented_at, now if contract.destroyed_at is None else contract.destroyed_at
    entry = {
        "start": start,
        "end": end,
        "type": "instance",
        "source": f"instance-{contract.id}",
        "description": f"Instance {contract.id} {contract.label}".strip(),
        "amount": contract.cost_usd(now),
        "metadata": {"contract_id": contract.id, "label": contract.label},
    }
    return {**entry, "items": [{**entry, "type": "usage", "source": f"machine-{contract.machine_id}", "items": []}]}


def charge_item(contract: Contract, now: float) -> dict[str, Any]:
    """Return the cost of a contract as an entry of the older list of invoices."""
    entry = charge(contract, now)
    hours = (entry["end"] - entry["start"]) / 3600
    return {
        "type": "charge",
        "timestamp": entry["end"],
        "description": entry["description"],
        "amount": entry["amount"],
        "quantity": hours,
        "rate": entry["amount"] / hours if hours else 0.0,
        "instance_id": contract.id,
    }


def payment_item(payment: dict[str, Any]) -> dict[str, Any]:
    """Return a payment as an entry of the older list of invoices."""
    return {
        "type": "payment",
        "timestamp": payment["when"],
        "description": "Payment",
        "amount": payment["usd"],
        "quantity": 1,
        "rate": payment["usd"],
        "instance_id": None,
    }
