"""Would a second machine help? A simulation of boots with a heavy tail, hedged and not. Run by `python -m bench.hedge`.

Parameters, and where they come from. Time to pull: 12.6 GB over each host's bandwidth, drawn from the emulator's
market, at the share of it that ranking assumes. Start and weights: 90 s, ranking's constant. Spread: lognormal with
sigma 0.5. Bad hosts: 8 % never serve and are given up at the stall deadline, then the next is rented. The last two are
assumptions, not measurements (published boot times of marketplaces run from seconds to tens of minutes), so read the
ratio between the columns, not the columns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from dataclasses import dataclass

from components.vast.models import Offer
from components.vast.ranking import Candidate, Workload, rank
from components.vast.spec import Deadlines
from emulator.market import build

SIGMA = 0.5
BAD_SHARE = 0.08
WORK = Workload(pull_gb=12.6, disk_gb=40)


@dataclass(frozen=True)
class Boot:
    """One simulated deploy: when it served, what the boot cost."""

    ready_s: float
    cost_usd: float


def lane(dice: random.Random, candidates: list[Candidate]) -> tuple[float, float]:
    """Rent one machine after the other until one serves; return seconds and dollars."""
    total_s = total_usd = 0.0
    while True:
        candidate = dice.choice(candidates)
        bad = dice.random() < BAD_SHARE
        took = Deadlines().stall_s if bad else candidate.ready_s * dice.lognormvariate(0, SIGMA)
        total_s += took
        total_usd += candidate.pull_cost_usd + candidate.offer.dph_total_usd * took / 3600
        if not bad:
            return total_s, total_usd


def boot(dice: random.Random, candidates: list[Candidate], hedge: int) -> Boot:
    """Let `hedge` lanes race; every lane costs until the first serves."""
    lanes = [lane(dice, candidates) for _ in range(hedge)]
    first = min(seconds for seconds, _ in lanes)
    cost = sum(usd * min(1.0, first / seconds) for seconds, usd in lanes)
    return Boot(first, cost)


def simulate(boots: int, hedge: int, seed: int) -> list[Boot]:
    """Return the boots of one policy."""
    dice = random.Random(seed)
    offers = [Offer.parse(one.offer(now=0, storage_gb=40)) for one in build(7, now=0).values()]
    fit = [one for one in offers if one.num_gpus == 1 and one.cuda_max_good >= 12.9 and one.gpu_ram_mb >= 16000]
    candidates = rank(fit, WORK, "balanced")[:8]
    return [boot(dice, candidates, hedge) for _ in range(boots)]


def quantile(values: list[float], share: float) -> float:
    """Return a quantile."""
    return statistics.quantiles(values, n=100)[round(share * 100) - 1]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.hedge", description=__doc__)
    parser.add_argument("--boots", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("| hedge | p50 to ready | p95 to ready | mean cost of the boot |\n| --- | --- | --- | --- |")
    for hedge in (1, 2, 3):
        boots = simulate(args.boots, hedge, args.seed)
        times = [one.ready_s for one in boots]
        cost = statistics.mean(one.cost_usd for one in boots)
        print(f"| {hedge} | {quantile(times, 0.5):.0f} s | {quantile(times, 0.95):.0f} s | ${cost:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
