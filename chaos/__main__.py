"""`python -m chaos --runs 200` (or `make chaos`): many seeded runs, and what they left billed that no state knows.

A failing seed is printed and can be replayed: `python -m chaos --seeds SEED`.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import requests

from chaos.run import Runner
from chaos.scenario import Difference, Result, Scenario
from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY

BOOT_S = 0.8  # long enough that a kill meets a boot in every stage


def work(folder: Path, seeds: list[int]) -> Iterator[Result]:
    """Run seeds one after the other on one market and one stack."""
    with EmulatorServer(runtime="none", boot_s=BOOT_S, state_dir=folder / "emulator", keys=[EMULATOR_KEY]) as market:
        market.control.post("credit", credit=1e6)
        runner = Runner(folder / "stack", market.control)
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
                    requests.delete(instance, headers={"Authorization": f"Bearer {EMULATOR_KEY}"}, json={}, timeout=10)


@click.command(context_settings={"show_default": True})
@click.option("--runs", default=200, help="how many runs")
@click.option("--first-seed", default=1, help="seed of the first run; the others count up from it")
@click.option("--workers", default=2, help="markets and stacks side by side")
@click.option("--seeds", type=int, multiple=True, help="this seed instead, for a replay")
def main(runs: int, first_seed: int, workers: int, seeds: tuple[int, ...]) -> None:
    """Run, print a line per failing run and the totals; exit code 1 where anything leaked or is stuck."""
    drawn, start = list(seeds or range(first_seed, first_seed + runs)), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vast-reranker-chaos-") as folder, ThreadPoolExecutor(workers) as pool:

        def share(worker: int) -> list[Result]:
            results = []
            for result in work(Path(folder) / str(worker), drawn[worker::workers]):
                results.append(result)
                click.echo(f"{'ok  ' if result.good else 'FAIL'} {result}")
            return results

        results = [one for part in pool.map(share, range(workers)) for one in part]
    report(results, time.monotonic() - start)
    if bad := [one.scenario.seed for one in results if not one.good]:
        raise click.ClickException(f"failing seeds: {bad}; replay one: python -m chaos --workers 1 --seeds {bad[0]}")


def report(results: list[Result], took_s: float) -> None:
    """Print the totals."""
    leaked, dollars = sum(len(one.leaked) for one in results), sum(one.leaked_usd for one in results)
    stuck = sum(bool(one.stuck) for one in results)
    click.echo(
        f"{len(results)} runs in {took_s:.0f} s: {leaked} contracts leaked (${dollars:.4f}), {stuck} stacks stuck"
    )
    click.echo(f"  ledgers against the market's: {functools.reduce(Difference.__or__, (one.off for one in results))}")
    scenarios, fired = [one.scenario for one in results], sum((Counter(one.fired) for one in results), Counter())
    for title, counts in {
        "operations": Counter(one.operation for one in scenarios),
        "kills drawn": Counter(one.kill for one in scenarios),
        "kills hit": Counter(one.scenario.kill for one in results if one.killed),
        "stages of a single SIGINT": Counter(one.stage for one in results if one.stage),
        "faults drawn": Counter(one.fault for one in scenarios),
        "faults of servers drawn": Counter(one.server_fault for one in scenarios),
        "faults hit": fired,
    }.items():
        click.echo(f"  {title}: " + ", ".join(f"{key} {count}" for key, count in sorted(counts.items()) if count))


if __name__ == "__main__":
    main(prog_name="python -m chaos")
