"""`python -m chaos --runs 200` (or `make chaos`): many seeded runs, and what they left billed that no state knows.

A failing seed is printed and can be replayed: `python -m chaos --seeds SEED`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from chaos.run import Result, Runner, Scenario
from emulator.server import EmulatorServer

BOOT_S = 0.8  # long enough that a kill meets a boot in every stage


def work(folder: Path, seeds: list[int]) -> Iterator[Result]:
    """Run seeds one after the other on one market and one stack."""
    with EmulatorServer(runtime="none", boot_s=BOOT_S, state_dir=folder / "emulator") as market:
        requests.post(f"{market.url}/_emulator/credit", json={"credit": 1e6}, timeout=10)
        runner = Runner(folder / "stack", market.url)
        for seed in seeds:
            try:
                result = runner.run(Scenario.of(seed))
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                result = Result(Scenario.of(seed), stuck=str(error))
            yield result
            if not result.good:  # a fresh stack: one fault must not be counted again in the runs after it
                runner.stack.destroy()
                for instance_id in runner.billed():
                    instance = f"{market.url}/api/v0/instances/{instance_id}/"
                    requests.delete(instance, headers={"Authorization": "Bearer emulator-key"}, json={}, timeout=10)


def main() -> int:
    """Run, print a line per failing run and the totals."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="how many runs (default 200)")
    parser.add_argument("--first-seed", type=int, default=1, help="seed of the first run; the others count up from it")
    parser.add_argument("--workers", type=int, default=2, help="markets and stacks side by side (default 2)")
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds instead, for a replay")
    args = parser.parse_args()
    seeds = args.seeds or list(range(args.first_seed, args.first_seed + args.runs))
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vast-reranker-chaos-") as folder:

        def share(worker: int) -> list[Result]:
            results = []
            for result in work(Path(folder) / str(worker), seeds[worker :: args.workers]):
                results.append(result)
                mark = "ok  " if result.good else "FAIL"
                print(f"{mark} {result.scenario}", flush=True)
                if not result.good:
                    left = f"leaked {result.leaked} missing {result.missing} unmarked {result.unmarked}"
                    left += f" rented after an interrupt {result.rented_after}"
                    print(f"     {left} {result.stuck}", flush=True)
            return results

        with ThreadPoolExecutor(args.workers) as pool:
            results = [one for part in pool.map(share, range(args.workers)) for one in part]
    return report(results, time.monotonic() - start)


def report(results: list[Result], took_s: float) -> int:
    """Print the totals; 0 when nothing leaked and nothing is stuck."""
    leaked = sum(len(one.leaked) for one in results)
    stuck = sum(bool(one.stuck) for one in results)
    dollars = sum(one.leaked_usd for one in results)
    print(f"{len(results)} runs in {took_s:.0f} s: {leaked} contracts leaked (${dollars:.4f}), {stuck} stacks stuck")
    fired: Counter[str] = Counter()
    for one in results:
        fired.update(one.fired)
    for title, counts in (
        ("operations:  ", Counter(one.scenario.operation for one in results)),
        ("kills drawn: ", Counter(one.scenario.kill for one in results)),
        ("kills hit:   ", Counter(one.scenario.kill for one in results if one.killed)),
        ("faults drawn: ", Counter(one.scenario.fault for one in results)),
        ("of servers: ", Counter(one.scenario.server_fault for one in results)),
        ("faults hit:   ", fired),
    ):
        print(f"  {title}" + ", ".join(f"{key} {count}" for key, count in sorted(counts.items()) if count))
    bad = [one.scenario.seed for one in results if not one.good]
    if bad:
        print(f"  failing seeds: {bad}; replay one with: python -m chaos --workers 1 --seeds {bad[0]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
