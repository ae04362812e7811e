"""`python -m bench provision`: how long fleets take to come up, to be looked at and to go, and the API calls it takes.

On the emulator, with real time: every boot takes `--boot-s`. The baseline is one replica in the same run. The widest
fleet is also brought up with Vast.ai's published pacing, and with the stock four threads of Pulumi's Python plugin.
"""

from __future__ import annotations

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
class Fleet:
    """One fleet's life: seconds for each operation, API calls by kind in `up` and in a refresh preview."""

    replicas: int
    variant: str
    up_s: float
    preview_s: float | None
    destroy_s: float
    up_calls: Mapping[str, int]
    preview_calls: Mapping[str, int]


def live(folder: Path, replicas: int, *, boot_s: float, variant: str = PLAIN, previews: int = 3) -> Fleet:
    """Bring a fleet up, look at it, take it down. Raises RuntimeError with the engine's text when a step fails."""
    paced = variant == PACED
    with EmulatorServer(
        runtime="none", time="real", boot_s=boot_s, state_dir=folder / "emulator", pacing=paced, keys=[EMULATOR_KEY]
    ) as market:
        market.control.post("credit", credit=1e6)
        config: dict[str, Any] = {"replicas": replicas, "timeouts.poll_s": 1, "query": QUERY}
        if paced:
            config |= {"emulator.pacing": True, "timeouts.poll_s": 5}
        env = {"RERANKER_PLUGIN_THREADS": "4"} if variant == FEW_THREADS else {}
        stack = EngineStack(folder / "stack", market.url, config=config, env=env, packages_listed=False).init()
        up_s, up_calls = timed(market, stack, "up", "--yes", "--skip-preview", *PARALLEL)
        looks = [timed(market, stack, "preview", "--expect-no-changes", *PARALLEL) for _ in range(previews)]
        destroy_s, _ = timed(market, stack, "destroy", "--yes", "--skip-preview", *PARALLEL)
    preview_s = sorted(seconds for seconds, _ in looks)[len(looks) // 2] if looks else None
    return Fleet(replicas, variant, up_s, preview_s, destroy_s, up_calls, looks[0][1] if looks else {})


def timed(market: EmulatorServer, stack: EngineStack, *args: str) -> tuple[float, dict[str, int]]:
    """Run a pulumi command; return its seconds and the API calls that it made."""
    market.control.post("requests/reset")
    start = time.perf_counter()
    stack.ok(*args, timeout_s=3600)
    took = time.perf_counter() - start
    return took, market.control.requests()


def measure(replicas: Sequence[int], *, boot_s: float, variants: bool) -> tuple[list[Fleet], str]:
    """Return the fleets that were measured, a line printed for each; and why one failed, after which none is tried."""
    runs = [(count, PLAIN) for count in replicas]
    if variants:
        runs += [(max(replicas), PACED), (max(replicas), FEW_THREADS)]
    fleets: list[Fleet] = []
    for count, variant in runs:
        with tempfile.TemporaryDirectory(prefix="vast-reranker-fleet-") as folder:
            previews = 3 if variant == PLAIN else 0
            try:
                fleets.append(live(Path(folder), count, boot_s=boot_s, variant=variant, previews=previews))
            except RuntimeError as error:
                return fleets, f"{count} replicas, {variant}:\n{error}"
        click.echo(table(fleets[-1:]).splitlines()[-1])
    return fleets, ""


def table(fleets: Sequence[Fleet]) -> str:
    """Return the fleets as Markdown."""
    one = next((fleet for fleet in fleets if fleet.replicas == 1), fleets[0])
    head = ("replicas", "", "up", "to one's", "refresh preview", "to one's", "destroy")
    rows = []
    for fleet in fleets:
        look, base = fleet.preview_s, one.preview_s
        looked = (f"{look:.1f} s", f"{look / base:.2f}") if look is not None and base else ("", "")
        up = (f"{fleet.up_s:.1f} s", f"{fleet.up_s / one.up_s:.2f}")
        calls = (_calls(fleet.up_calls), _calls(fleet.preview_calls))
        rows.append((str(fleet.replicas), fleet.variant, *up, *looked, f"{fleet.destroy_s:.1f} s", *calls))
    return markdown((*head, "lists, reads in up", "in a preview"), rows)


def _calls(counts: Mapping[str, int]) -> str:
    return f"{counts.get(LIST, 0)}, {counts.get(READ, 0)}" if counts else ""
