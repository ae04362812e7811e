"""`python -m bench provision`: time and API calls of `up`, `preview` and `destroy` of fleets.

Called by `bench.__main__`. Uses the emulator with real time: every boot takes `--boot-s`. The baseline is one replica.
The largest fleet also runs with Vast.ai's published pacing, and with the four default threads of Pulumi's plugin.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY, EngineStack
from ops.report import table as markdown

PLAIN, PACED, FEW_THREADS = "pacing off", "published pacing", "four threads"
PARALLEL = ("--parallel", "256")
# wide enough for 64 machines of the emulator's market
QUERY = "gpu_ram>=8 compute_cap>=750 direct_port_count>=1 verified=any rentable=true"
LIST, READ = "GET /api/v1/instances/", "GET /api/v0/instances/{id}/"


@dataclass(frozen=True)
class FleetTiming:
    """One fleet: seconds of each operation, and the number of API calls by kind in `up` and in a refresh preview."""

    replicas: int
    variant: str
    up_s: float
    preview_s: float | None
    destroy_s: float
    up_calls: Mapping[str, int]
    preview_calls: Mapping[str, int]


def measure_fleet(folder: Path, replicas: int, *, boot_s: float, variant: str) -> FleetTiming:
    """Run `up`, previews (of PLAIN only) and `destroy`. Raises RuntimeError with the engine's output if one fails."""
    paced = variant == PACED
    with EmulatorServer(
        runtime="none", time="real", boot_s=boot_s, state_dir=folder / "emulator", pacing=paced, keys=[EMULATOR_KEY]
    ) as market:
        market.control.post("credit", credit=1e6)
        config: dict[str, Any] = {"replicas": replicas, "timeouts.poll_s": 1, "query": QUERY}
        if paced:
            config |= {"emulator.pacing": True, "timeouts.poll_s": 5}
        env = {"RERANKER_PLUGIN_THREADS": "4"} if variant == FEW_THREADS else {}
        stack = EngineStack(folder / "stack", market.url, config=config, env=env, cached_pip_list=False).init()
        up_s, up_calls = time_command(market, stack, "up", "--yes", "--skip-preview", *PARALLEL)
        preview = ("preview", "--expect-no-changes", *PARALLEL)
        previews = [time_command(market, stack, *preview) for _ in range(3)] if variant == PLAIN else []
        destroy_s, _ = time_command(market, stack, "destroy", "--yes", "--skip-preview", *PARALLEL)
    preview_s = statistics.median(seconds for seconds, _ in previews) if previews else None
    return FleetTiming(replicas, variant, up_s, preview_s, destroy_s, up_calls, previews[0][1] if previews else {})


def time_command(market: EmulatorServer, stack: EngineStack, *args: str) -> tuple[float, dict[str, int]]:
    """Run a pulumi command; return its seconds and its number of API calls by kind."""
    market.control.post("requests/reset")
    start = time.perf_counter()
    stack.ok(*args, timeout_s=3600)
    return time.perf_counter() - start, market.control.requests()


def measure(replicas: Sequence[int], *, boot_s: float, variants: bool) -> tuple[list[FleetTiming], str]:
    """Measure fleets and print a line for each, up to the first failure. Return the results, and the failure or ""."""
    runs = [(count, PLAIN) for count in replicas]
    runs += [(max(replicas), variant) for variant in (PACED, FEW_THREADS) if variants]
    fleets: list[FleetTiming] = []
    for count, variant in runs:
        with tempfile.TemporaryDirectory(prefix="vast-reranker-fleet-") as folder:
            try:
                fleets.append(measure_fleet(Path(folder), count, boot_s=boot_s, variant=variant))
            except RuntimeError as error:
                return fleets, f"{count} replicas, {variant}:\n{error}"
        click.echo(table(fleets[-1:]).splitlines()[-1])
    return fleets, ""


def table(fleets: Sequence[FleetTiming]) -> str:
    """Return the fleets as Markdown."""
    baseline = next((fleet for fleet in fleets if fleet.replicas == 1), fleets[0])
    head = ("replicas", "", "up", "ratio", "refresh preview", "ratio", "destroy")
    rows = []
    for fleet in fleets:
        preview = ("", "")
        if fleet.preview_s is not None and baseline.preview_s:
            preview = (f"{fleet.preview_s:.1f} s", f"{fleet.preview_s / baseline.preview_s:.2f}")
        up = (f"{fleet.up_s:.1f} s", f"{fleet.up_s / baseline.up_s:.2f}")
        calls = (_format_calls(fleet.up_calls), _format_calls(fleet.preview_calls))
        rows.append((str(fleet.replicas), fleet.variant, *up, *preview, f"{fleet.destroy_s:.1f} s", *calls))
    return markdown((*head, "lists, reads in up", "in a preview"), rows)


def _format_calls(counts: Mapping[str, int]) -> str:
    return f"{counts.get(LIST, 0)}, {counts.get(READ, 0)}" if counts else ""
