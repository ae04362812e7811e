"""What an instance costs, split the way Vast bills it: GPU, disk, bandwidth. Pure; shown in outputs and previews."""

from __future__ import annotations

from components.vast.json_values import number
from components.vast.models import HOURS_PER_MONTH, Contract


def of_contract(contract: Contract, disk_gb: float) -> dict[str, float]:
    """Return dollars per hour for a contract."""
    disk = min(contract.storage_cost_usd_gb_month * disk_gb / HOURS_PER_MONTH, contract.dph_total_usd)
    return _split(contract.dph_total_usd - disk, disk)


def _split(gpu: float, disk: float) -> dict[str, float]:
    return {"gpu": round(gpu, 5), "disk": round(disk, 5), "total": round(gpu + disk, 5)}


def monthly(hourly: dict[str, float]) -> float:
    """Return dollars per month of 730 hours, bandwidth apart."""
    return round(hourly["total"] * HOURS_PER_MONTH, 2)


def bandwidth(contract: Contract) -> dict[str, float]:
    """Return dollars per GB, down to the instance and up from it; billed per byte besides the hourly price."""
    return {
        "down": round(number(contract.raw, "inet_down_cost", 0.0), 5),
        "up": round(number(contract.raw, "inet_up_cost", 0.0), 5),
    }
