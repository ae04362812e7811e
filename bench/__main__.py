"""`python -m bench` (or `make bench`): the budgets, what this machine measures, and baselines.

`python -m bench serving --help`: pairs per second of any endpoint, and what a million of them costs.
`python -m bench hot-path --help`: a preview and an `up` beside programs that do nothing.
`python -m bench provision --help`: fleets of 1 to 64 replicas on the emulator, up, looked at, down.

Each figure is the median of several runs. The baseline of `preview` and `up` is the same engine with an empty program:
what Pulumi itself costs here, before a line of ours runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from bench import failover, guard_cost, hot_path, local_vllm, provision, records, serving
from emulator.server import EmulatorServer
from harness.stack import EngineStack

POLLS = ("GET /api/v1/instances/", "GET /api/v0/instances/{id}/")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: float
    unit: str
    budget: float
    baseline: str = ""

    @property
    def kept(self) -> bool:
        """Whether the figure is within its budget."""
        return self.measured <= self.budget


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median(call: Callable[[], object], runs: int) -> float:
    """Return the median time of several calls."""
    return statistics.median(seconds(call) for _ in range(runs))


def succeed(done: object) -> None:
    """Stop with the command's text if it failed."""
    if getattr(done, "rc", 1) != 0:
        sys.exit(getattr(done, "text", str(done)))


def empty_program(folder: Path, url: str) -> EngineStack:
    """Return a stack whose program does nothing, for the baseline."""
    stack = EngineStack(folder, url, packages_listed=False)
    (stack.project / "__main__.py").unlink()
    (stack.project / "__main__.py").write_text("import pulumi\n")
    return stack.init()


def measure(folder: Path, *, runs: int, boot_s: float) -> list[Row]:
    """Return the rows of the table."""
    rows = []
    with EmulatorServer(runtime="none", time="real", boot_s=boot_s, state_dir=folder / "emulator") as market:
        nothing = empty_program(folder / "empty", market.url)
        succeed(nothing.up())
        base_preview = median(lambda: succeed(nothing.preview()), runs)
        base_up = median(lambda: succeed(nothing.up()), runs)

        stack = EngineStack(folder / "stack", market.url, packages_listed=False).init()
        requests.post(f"{market.url}/_emulator/requests/reset", timeout=10)
        first = seconds(lambda: succeed(stack.run("up", "--yes")))
        calls = requests.get(f"{market.url}/_emulator/requests", timeout=10).json()["requests"]
        polls = sum(count for name, count in calls.items() if name in POLLS)
        others = sum(calls.values()) - polls
        ups = [first]
        for _ in range(runs - 1):
            succeed(stack.destroy())
            ups.append(seconds(lambda: succeed(stack.run("up", "--yes"))))
        beyond = statistics.median(ups) - boot_s
        preview = median(lambda: succeed(stack.preview()), runs)
        rows.append(Row("preview of a running stack", preview, "s", 3.0, f"empty program {base_preview:.2f} s"))
        rows.append(Row(f"up beyond the boot of {boot_s:g} s", beyond, "s", 4.0, f"empty program {base_up:.2f} s"))
        rows.append(Row("API calls to bring up one replica, polls aside", others, "", 6, f"{polls} polls and reads"))
        succeed(stack.destroy())
        succeed(nothing.destroy())
    return rows


def serving_rows() -> list[Row]:
    """Print what serving costs with guard and TLS, and return the guard's budget as a row; none without vLLM."""
    load = records.Load()
    [pairs] = load.pairs
    own_ms, size = guard_cost.cpu_ms(pairs, load.words)
    rows = [Row(f"guard's own CPU time, request of {pairs} pairs", own_ms, "ms", 1.0, f"{size} bytes of JSON")]
    if not local_vllm.available():
        print(f"\n{table(rows)}\n\nServing: not measured, vLLM is not installed here (scripts/setup.sh test)")
        return rows
    with local_vllm.running() as targets:
        found = serving.measure(targets, load)
    print(f"\nServing, real vLLM on this CPU, {pairs} pairs a request, {load.rounds} rounds:\n")
    print(serving.table(found))
    serving.keep(found, load, serving.RESULTS)
    rows.append(guard_row(found))
    print(f"\n{table(rows)}")
    return rows


def guard_row(found: Sequence[records.Figure]) -> Row:
    """Return the guard's budget as a row: what it takes of plain vLLM's rate where most is asked at once."""
    guard = max((one for one in found if one.target == "guard"), key=lambda one: (one.pairs, one.users))
    spread = f"rounds from {100 * (1 - guard.ratio_high):.1f} to {100 * (1 - guard.ratio_low):.1f} %"
    return Row(f"guard's cost at {guard.users} in flight", max(0.0, 100 * (1 - guard.ratio)), "%", 3.0, spread)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| what | measured | budget | baseline in the same run |", "| --- | --- | --- | --- |"]
    for row in rows:
        mark = "" if row.kept else " (over)"
        lines.append(
            f"| {row.what} | {row.measured:.3g} {row.unit}{mark} | {row.budget:g} {row.unit} | {row.baseline} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table, keep the figures as JSON."""
    if sys.argv[1:2] == ["serving"]:
        return serving.main(sys.argv[2:])
    if sys.argv[1:2] == ["provision"]:
        return provision.main(sys.argv[2:])
    if sys.argv[1:2] == ["hot-path"]:
        return hot_path.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs per figure, of which the median counts (default 5)")
    parser.add_argument("--boot-s", type=float, default=5.0, help="boot time that the emulator simulates (default 5)")
    parser.add_argument("--json", type=Path, default=Path("bench/results/latest.json"), help="where the figures go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vast-reranker-bench-") as folder:
        rows = measure(Path(folder), runs=args.runs, boot_s=args.boot_s)
    print(table(rows))
    print(f"\nFrom the sign of a bad first host to the next rent (polled every {failover.POLL_S:g} s):\n")
    print("| sign | rent to rent | deadline in it | beyond it |\n| --- | --- | --- | --- |")
    for one in failover.measure():
        print(f"| {one.sign} | {one.rent_to_rent_s:.2f} s | {one.deadline_s:g} s | {one.beyond_s:.2f} s |")
    rows += serving_rows()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps([asdict(row) | {"kept": row.kept} for row in rows], indent=2) + "\n")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
