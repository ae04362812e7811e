"""`python -m chaos --runs 200` (or `make chaos`): seeded runs; counts billed contracts that are missing from the state.

Prints failing seeds. Replay one: `python -m chaos --seeds SEED`.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import click
import requests

from chaos.run import Runner
from chaos.scenario import Difference, RunResult, Scenario
from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY

BOOT_S = 0.8  # long enough for a kill in every stage of a boot


def work(folder: Path, seeds: list[int]) -> Iterator[RunResult]:
    """Run seeds one after the other with one emulator and one stack."""
    with EmulatorServer(runtime="none", boot_s=BOOT_S, state_dir=folder / "emulator", keys=[EMULATOR_KEY]) as market:
        market.control.post("credit", credit=1e6)
        runner = Runner(folder / "stack", market.control)
        for seed in seeds:
            scenario = Scenario.from_seed(seed)
            try:
                result = runner.run(scenario)
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                result = RunResult(scenario, stuck=str(error))
            yield result
            if not result.is_ok:  # clean up, so that the next runs do not count this failure again
                market.control.faults_off()
                with suppress(TimeoutError):
                    runner.stack.run("cancel", "--yes")  # the lock of a killed run
                    runner.stack.destroy()
                for instance_id in runner.billed_contracts():
                    url = f"{market.url}/api/v0/instances/{instance_id}/"
                    requests.delete(url, headers={"Authorization": f"Bearer {EMULATOR_KEY}"}, json={}, timeout=10)


@click.command(context_settings={"show_default": True})
@click.option("--runs", default=200, help="number of runs")
@click.option("--first-seed", default=1, help="seed of the first run; each next run adds 1")
@click.option("--workers", default=2, help="number of emulators and stacks in parallel")
@click.option("--seeds", type=int, multiple=True, help="run only this seed (repeatable)")
def main(runs: int, first_seed: int, workers: int, seeds: tuple[int, ...]) -> None:
    """Run, print a line for each run and the totals; exit code 1 if a run failed."""
    all_seeds, start = list(seeds or range(first_seed, first_seed + runs)), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vast-reranker-chaos-") as folder, ThreadPoolExecutor(workers) as pool:

        def run_worker(worker: int) -> list[RunResult]:
            results = []
            for result in work(Path(folder) / str(worker), all_seeds[worker::workers]):
                results.append(result)
                click.echo(f"{'ok  ' if result.is_ok else 'FAIL'} {result}")
            return results

        results = [result for part in pool.map(run_worker, range(workers)) for result in part]
    report(results, time.monotonic() - start)
    if bad := [result.scenario.seed for result in results if not result.is_ok]:
        raise click.ClickException(f"failing seeds: {bad}; replay one: python -m chaos --workers 1 --seeds {bad[0]}")


def report(results: list[RunResult], took_s: float) -> None:
    """Print the totals."""
    leaked, usd = sum(len(result.leaked) for result in results), sum(result.leaked_usd for result in results)
    stuck = sum(bool(result.stuck) for result in results)
    click.echo(f"{len(results)} runs in {took_s:.0f} s: {leaked} contracts leaked (${usd:.4f}), {stuck} stacks stuck")
    difference = functools.reduce(Difference.__or__, (result.ledger_difference for result in results))
    click.echo(f"  stack's and emulator's ledgers: {difference}")
    scenarios = [result.scenario for result in results]
    for title, counts in {
        "operations": Counter(scenario.operation for scenario in scenarios),
        "kills drawn": Counter(scenario.kill for scenario in scenarios),
        "kills hit": Counter(result.scenario.kill for result in results if result.killed),
        "stages of a single SIGINT": Counter(result.stage for result in results if result.stage),
        "faults drawn": Counter(scenario.fault for scenario in scenarios),
        "server faults drawn": Counter(scenario.server_fault for scenario in scenarios),
        "faults hit": sum((Counter(result.fired) for result in results), Counter()),
    }.items():
        click.echo(f"  {title}: " + ", ".join(f"{key} {count}" for key, count in sorted(counts.items()) if count))


if __name__ == "__main__":
    main(prog_name="python -m chaos")
