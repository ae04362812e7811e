"""Estimates the pairs/s of an offer's machine from the user's measurements and the offer's fields.

Called by `market`. Pure. Without a measurement the estimates only order the offers by speed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.vast.models import Offer

# Assumption, to order machines without a measurement: the CPU work of a pair (HTTP, tokenizer, scheduler) takes as long
# as this many million parameters on the GPU. A model of 22 M is bound by the CPU, one of 8000 M by the GPU.
CPU_AS_PARAMETERS_M = 200.0
# vLLM's API server, tokenizer and engine use one process or thread each; more cores do not help.
CORES_USED = 4.0
RELATIVE = "relative, not measured"
UNKNOWN = "not known: the offer lacks dlperf, gpu_mem_bw or cpu_cores_effective"


@dataclass(frozen=True)
class Estimate:
    """`speed`: pairs/s if `measured`, else a number that is comparable only within one search; 0 if unknown.
    `basis`: the source of the number, as text."""

    speed: float
    basis: str
    measured: bool = False

    @property
    def pairs_per_s(self) -> float | None:
        return self.speed if self.measured else None

    def usd_per_million(self, dph_usd: float) -> float | None:
        """Return the dollars per million pairs at a price per hour; None if the speed is not measured."""
        return usd_per_million(dph_usd, self.pairs_per_s or 0.0)

    def __str__(self) -> str:
        return f"about {self.speed:.0f} pairs/s ({self.basis})" if self.measured else f"pairs/s {self.basis}"


def usd_per_million(dph_usd: float | None, pairs_per_s: float) -> float | None:
    """Return the dollars per million pairs; None without a price or a rate."""
    return dph_usd / 3600 / pairs_per_s * 1e6 if dph_usd is not None and pairs_per_s else None


def estimate_speeds(offers: Sequence[Offer], parameters_m: float, measured: Mapping[str, float]) -> list[Estimate]:
    """Return an estimate for each offer, for a model of `parameters_m` million parameters.

    `measured`: pairs/s of that model by Vast.ai's GPU name. Among the offers with a measured GPU, the median machine
    gets the measured rate; the others get more or less, by relative speed. All other GPUs are scaled by the
    median factor of the measured GPUs.
    """
    relative = [relative_speed(offer, parameters_m) for offer in offers]
    by_gpu: defaultdict[str, list[float]] = defaultdict(list)
    for offer, speed in zip(offers, relative, strict=True):
        if speed and measured.get(offer.gpu_name):
            by_gpu[offer.gpu_name].append(speed)
    factors = {gpu: measured[gpu] / statistics.median(speeds) for gpu, speeds in by_gpu.items()}
    if not factors:
        return [Estimate(speed, RELATIVE if speed else UNKNOWN) for speed in relative]
    scale, scaled = statistics.median(factors.values()), f"scaled from {', '.join(sorted(factors))}"
    if (ratio := max(factors.values()) / min(factors.values())) > 1:
        scaled += f" ({ratio:.1f}x apart)"
    return [
        Estimate(0.0, UNKNOWN)
        if not speed
        else Estimate(speed * factors[offer.gpu_name], "measured on this GPU", measured=True)
        if offer.gpu_name in factors
        else Estimate(speed * scale, scaled, measured=True)
        for offer, speed in zip(offers, relative, strict=True)
    ]


def relative_speed(offer: Offer, parameters_m: float) -> float:
    """Return the relative speed of one GPU of an offer with its CPU; 0 if the offer lacks a field.

    Product of the GPU's speed (Vast.ai's benchmark and memory bandwidth, weighted equally) and the CPU's cores, each to
    the power of its share of a pair's time. `total_flops` is not used: it is for 32 bits, without tensor cores.
    """
    try:
        dlperf = float(offer.raw["dlperf"]) / offer.num_gpus
        bandwidth, cores = float(offer.raw["gpu_mem_bw"]), float(offer.raw["cpu_cores_effective"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0.0
    if min(dlperf, bandwidth, cores) <= 0:
        return 0.0
    cpu_share = CPU_AS_PARAMETERS_M / (CPU_AS_PARAMETERS_M + parameters_m)
    return float((dlperf * bandwidth) ** ((1 - cpu_share) / 2) * min(cores, CORES_USED) ** cpu_share)
