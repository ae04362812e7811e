"""The machines of the market and their offers. A seed makes them the same in every run. No HTTP.

Prices, bandwidths and models are invented, within realistic ranges; no host here exists.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

HOURS_PER_MONTH = 730.0
FIRST_MACHINE = 20001
FIRST_ASK = 7000001
MAX_GPUS = 8


@dataclass(frozen=True)
class Gpu:
    """A GPU model: compute capability x100, memory in MiB, typical price per hour, dlperf, share of the market."""

    name: str
    compute_cap: int
    ram_mb: int
    dph_usd: float
    dlperf: float
    share: int
    arch: str = "nvidia"


GPUS = (
    Gpu("GTX 1080 Ti", 610, 11264, 0.055, 9.5, 5),
    Gpu("Tesla T4", 750, 15360, 0.10, 11.0, 6),
    Gpu("RTX 2080 Ti", 750, 11264, 0.08, 16.0, 6),
    Gpu("Q RTX 8000", 750, 46080, 0.21, 22.0, 5),
    Gpu("Tesla V100", 700, 32768, 0.22, 28.0, 6),
    Gpu("RTX 3060", 860, 12288, 0.06, 12.5, 14),
    Gpu("RTX A4000", 860, 16376, 0.09, 19.0, 18),
    Gpu("RTX 4060 Ti", 890, 16380, 0.08, 17.5, 20),
    Gpu("RTX 3090", 860, 24576, 0.14, 34.0, 26),
    Gpu("A10", 860, 23028, 0.17, 31.0, 6),
    Gpu("L4", 890, 23034, 0.24, 30.0, 8),
    Gpu("RTX A5000", 860, 24564, 0.17, 32.0, 10),
    Gpu("RTX 4090", 890, 24564, 0.34, 82.0, 24),
    Gpu("RTX A6000", 860, 49140, 0.42, 42.0, 8),
    Gpu("L40S", 890, 46068, 0.68, 78.0, 8),
    Gpu("RTX 5090", 1200, 32607, 0.52, 118.0, 14),
    Gpu("A100 SXM4", 800, 81920, 0.95, 105.0, 8),
    Gpu("H100 SXM", 900, 81559, 2.15, 240.0, 8),
)
PLACES = (
    ("Washington", "US"), ("Texas", "US"), ("California", "US"), ("Quebec", "CA"), ("Sweden", "SE"), ("Norway", "NO"),
    ("Germany", "DE"), ("Czechia", "CZ"), ("Poland", "PL"), ("Bulgaria", "BG"), ("Spain", "ES"),
    ("United Kingdom", "GB"),
    ("Iceland", "IS"), ("Japan", "JP"), ("Taiwan", "TW"), ("South Korea", "KR"), ("Vietnam", "VN"), ("Brazil", "BR"),
)  # fmt: skip
CUDA = ((11.8, 520), (12.2, 535), (12.4, 550), (12.8, 570), (12.9, 575), (13.0, 580), (13.1, 590))
CUDA_WEIGHTS = (3, 6, 12, 20, 22, 26, 11)


@dataclass
class Machine:
    """A machine: hardware, location, prices, and its state (faults, rental)."""

    machine_id: int
    host_id: int
    ask_id: int
    ip: str
    gpu: Gpu
    num_gpus: int
    facts: dict[str, Any]
    dph_base_usd: float
    storage_usd_gb_month: float
    min_bid_usd: float
    end_date: float
    term_s: float
    alive: bool = True
    stalled: bool = False
    unreachable: bool = False
    rented_by: int | None = None

    def disk_dph(self, disk_gb: float) -> float:
        """Return the price of storage in dollars per hour."""
        return self.storage_usd_gb_month * disk_gb / HOURS_PER_MONTH

    def usable(self) -> bool:
        """Return whether its host is online and its GPU free."""
        return self.alive and self.rented_by is None

    def relist(self, now: float) -> None:
        """Extend an expired offer by a term, as hosts do: a market with an old state keeps its offers."""
        if self.end_date <= now:
            self.end_date = now + self.term_s

    def offer(self, *, now: float, storage_gb: float, bid: bool = False) -> dict[str, Any]:
        base = self.min_bid_usd if bid else self.dph_base_usd
        disk = self.disk_dph(storage_gb)
        total = base + disk
        dlperf = self.gpu.dlperf * self.num_gpus
        return {
            "id": self.ask_id,
            "ask_contract_id": self.ask_id,
            "bundle_id": self.ask_id,
            "bundled_results": None,
            "rn": 1,
            "machine_id": self.machine_id,
            "host_id": self.host_id,
            "gpu_name": self.gpu.name,
            "num_gpus": self.num_gpus,
            "gpu_ram": self.gpu.ram_mb,
            "gpu_total_ram": self.gpu.ram_mb * self.num_gpus,
            "gpu_ids": list(range(self.machine_id * 8, self.machine_id * 8 + self.num_gpus)),
            "gpu_arch": self.gpu.arch,
            "compute_cap": self.gpu.compute_cap,
            "dph_base": base,
            "dph_total": total,
            "dph_total_adj": total,
            "discounted_dph_total": total,
            "discounted_hourly": 0.0,
            "discount_rate": 0.0,
            "platform_fee": None,
            "min_bid": self.min_bid_usd,
            "is_bid": bid,
            "storage_cost": self.storage_usd_gb_month,
            "storage_total_cost": disk,
            "search": hourly_price(base, disk),
            "instance": hourly_price(0.0, disk),
            "vram_costperhour": base / (self.gpu.ram_mb * self.num_gpus),
            "dlperf": dlperf,
            "dlperf_per_dphtotal": dlperf / total,
            "flops_per_dphtotal": dlperf / total,
            "score": dlperf / total * self.facts["reliability"],
            "public_ipaddr": f"{self.ip}\n",
            "end_date": self.end_date,
            "start_date": now,
            "duration": max(self.end_date - now, 0.0),
            "rentable": self.usable(),
            "rented": self.rented_by is not None,
            "external": False,
            "internet_down_cost_per_tb": self.facts["inet_down_cost"] * 1000,
            "internet_up_cost_per_tb": self.facts["inet_up_cost"] * 1000,
            **self.facts,
        }


def hourly_price(gpu_usd: float, disk_usd: float) -> dict[str, float]:
    """Return the API's breakdown of the price per hour."""
    total = gpu_usd + disk_usd
    return {
        "gpuCostPerHour": gpu_usd,
        "diskHour": disk_usd,
        "totalHour": total,
        "discountTotalHour": 0.0,
        "discountedTotalPerHour": total,
    }


def build(seed: int, *, now: float, hosts: int = 200) -> dict[int, Machine]:
    """Return machines by id. Each has a separate loopback address, 127.0.1.N."""
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    shares = [gpu for gpu in GPUS for _ in range(gpu.share)]
    machines = {}
    for n in range(hosts):
        machine = _create_machine(dice, n, shares[n % len(shares)], now)
        machines[machine.machine_id] = machine
    return machines


def _create_machine(dice: random.Random, n: int, gpu: Gpu, now: float) -> Machine:
    cuda, driver = dice.choices(CUDA, CUDA_WEIGHTS)[0]
    if gpu.compute_cap >= 1200:
        cuda, driver = max((cuda, driver), (12.8, 570))
    datacenter = dice.random() < 0.25
    verified = datacenter or dice.random() < 0.75
    city, country = dice.choice(PLACES)
    num_gpus = dice.choices((1, 2, 4, 8), (70, 14, 10, 6))[0]
    inet_down = round(dice.choice((60, 120, 300, 500, 800, 1500, 3000)) * dice.uniform(0.7, 1.3), 1)
    price = gpu.dph_usd * num_gpus * dice.uniform(0.78, 1.45) * (1.15 if datacenter else 1.0)
    reliability = round(min(0.999, dice.betavariate(40, 1.2 if verified else 4)), 4)
    minor, patch = dice.randint(10, 199), dice.randint(1, 9)
    facts: dict[str, Any] = {
        "cuda_max_good": cuda,
        "driver_version": f"{driver}.{minor}.0{patch}",
        "driver_vers": driver * 1_000_000 + minor * 1000 + patch,
        "gpu_mem_bw": round(gpu.dlperf * 12, 1),
        "gpu_lanes": 16,
        "pcie_bw": round(dice.uniform(5, 25), 1),
        "pci_gen": dice.choice((3.0, 4.0)),
        "cpu_name": dice.choice(("Xeon", "EPYC", "Ryzen")),
        "cpu_arch": "amd64",
        "cpu_ghz": round(dice.uniform(2.2, 4.8), 1),
        "cpu_cores": dice.choice((16, 32, 64, 128)),
        "gpu_frac": max(dice.choice((0.25, 0.5, 1.0, 1.0)), num_gpus / MAX_GPUS),
        "cpu_ram": dice.choice((32, 64, 128, 256)) * 1024,
        "has_avx": 1,
        "disk_space": round(dice.uniform(20, 900), 1),
        "disk_bw": round(dice.uniform(400, 5000), 1),
        "disk_name": "nvme",
        "inet_down": inet_down,
        "inet_up": round(inet_down * dice.uniform(0.3, 1.0), 1),
        "inet_down_cost": round(dice.choice((0.0, 0.001, 0.002, 0.005, 0.01, 0.02)), 4),
        "inet_up_cost": round(dice.choice((0.0, 0.002, 0.005, 0.02)), 4),
        "reliability": reliability,
        "reliability2": reliability,
        "verification": "verified" if verified else "unverified",
        "vericode": 1 if verified else 0,
        "hosting_type": 1 if datacenter else 0,
        "static_ip": datacenter or dice.random() < 0.6,
        "direct_port_count": dice.choice((0, 10, 50, 100, 250)) if not datacenter else 250,
        "direct_port_start": 40000,
        "direct_port_end": 40999,
        "geolocation": f"{city}, {country}",
        "geolocode": dice.randint(1, 10**9),
        "mobo_name": "board",
        "os_version": "22.04",
        "vms_enabled": False,
        "bw_nvlink": 0.0,
        "gpu_display_active": False,
        "gpu_max_power": 300.0,
        "gpu_max_temp": 90.0,
        "total_flops": gpu.dlperf * num_gpus,
        "cluster_id": None,
        "hostname": None,
        "webpage": None,
        "resource_type": "gpu",
        "credit_discount_max": 0.4,
        "expected_reliability": reliability,
        "reliability_mult": reliability,
        "is_vm_deverified": False,
        "avail_vol_ask_id": None,
        "avail_vol_dph": None,
        "avail_vol_size": None,
        "nw_disk_min_bw": None,
        "nw_disk_max_bw": None,
        "nw_disk_avg_bw": None,
        "time_remaining": "",
        "time_remaining_isbid": "",
        "logo": "/static/logos/vastai_small2.png",
    }
    facts["cpu_cores_effective"] = facts["cpu_cores"] * facts["gpu_frac"]  # the offer's share of the machine
    machine = Machine(
        machine_id=FIRST_MACHINE + n * 3,
        host_id=1000 + n // 2,
        ask_id=FIRST_ASK + n * 7,
        ip=f"127.0.1.{n + 1}",
        gpu=gpu,
        num_gpus=num_gpus,
        facts=facts,
        dph_base_usd=round(price, 4),
        storage_usd_gb_month=round(dice.choice((0.05, 0.10, 0.15, 0.20)), 3),
        min_bid_usd=round(price * dice.uniform(0.35, 0.7), 4),
        end_date=0.0,
        term_s=dice.uniform(0.5, 180) * 86400,
    )
    machine.relist(now)
    return machine
