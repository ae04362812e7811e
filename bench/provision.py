"""`python -m bench provision`: how long fleets take to come up, to be looked at and to go, and the API calls it takes.

On the emulator, with real time: every boot takes `--boot-s`. The baseline is one replica in the same run. The widest
fleet is also brought up with Vast.ai's published pacing, and with the stock four threads of Pulumi's Python plugin.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import requests

from bench.records import FEW_THREADS, PACED, PLAIN, Fleet
from emulator.server import EmulatorServer
from harness.stack import EngineStack

PARALLEL = ("--parallel", "256")
# wide enough for 64 machines of the emulator's market
QUERY = "gpu_ram>=8 compute_cap>=750 direct_port_count>=1 verified=any rentable=true"
RESULTS = Path("bench/results/provision.json")
LIST, READ = "GET /api/v1/instances/", "GET /api/v0/instances/{id}/"


def live(folder: Path, replicas: int, *, boot_s: float, variant: str = PLAIN, previews: int = 3) -> Fleet:
    """Bring a fleet up, look at it, take it down. Raises RuntimeError with the engine's text when a step fails."""
    paced = variant == PACED
    with EmulatorServer(
        runtime="none", time="real", boot_s=boot_s, state_dir=folder / "emulator", pacing=paced
    ) as market:
        requests.post(f"{market.url}/_emulator/credit", json={"credit": 1e6}, timeout=10)
        config: dict[str, Any] = {"replicas": replicas, "timeouts.poll_s": 1, "query": QUERY}
        if paced:
            config |= {"emulator.pacing": True, "timeouts.poll_s": 5}
        env = {"RERANKER_PLUGIN_THREADS": "4"} if variant == FEW_THREADS else {}
        stack = EngineStack(folder / "stack", market.url, config=config, env=env, packages_listed=False).init()
        up_s, up_calls = timed(market.url, stack, "up", "--yes", "--skip-preview", *PARALLEL)
        looks = [timed(market.url, stack, "preview", "--expect-no-changes", *PARALLEL) for _ in range(previews)]
        destroy_s, _ = timed(market.url, stack, "destroy", "--yes", "--skip-preview", *PARALLEL)
    preview_s = sorted(seconds for seconds, _ in looks)[len(looks) // 2] if looks else None
    return Fleet(replicas, variant, up_s, preview_s, destroy_s, up_calls, looks[0][1] if looks else {})


def timed(url: str, stack: EngineStack, *args: str) -> tuple[float, dict[str, int]]:
    """Run a pulumi command; return its seconds and the API calls that it made."""
    requests.post(f"{url}/_emulator/requests/reset", timeout=10)
    start = time.perf_counter()
    done = stack.run(*args, timeout_s=3600)
    took = time.perf_counter() - start
    if done.rc != 0:
        raise RuntimeError(done.text[-4000:])
    calls = requests.get(f"{url}/_emulator/requests", timeout=10).json()["requests"]
    return took, dict(calls)


def table(fleets: Sequence[Fleet]) -> str:
    """Return the fleets as Markdown."""
    one = next((fleet for fleet in fleets if fleet.replicas == 1), fleets[0])
    lines = [
        "| replicas | | up | to one's | refresh preview | to one's | destroy | lists, reads in up | in a preview |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fleet in fleets:
        look = to_look = ""
        if fleet.preview_s is not None and one.preview_s:
            look, to_look = f"{fleet.preview_s:.1f} s", f"{fleet.preview_s / one.preview_s:.2f}"
        up_calls, look_calls = (
            f"{calls.get(LIST, 0)}, {calls.get(READ, 0)}" for calls in (fleet.up_calls, fleet.preview_calls)
        )
        lines.append(
            f"| {fleet.replicas} | {fleet.variant} | {fleet.up_s:.1f} s | {fleet.up_s / one.up_s:.2f} | {look} | "
            f"{to_look} | {fleet.destroy_s:.1f} s | {up_calls} | {look_calls if fleet.preview_calls else ''} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Measure (or read what was kept), print the table, keep the figures as JSON, draw them."""
    args = parsed(argv)
    failure = None
    if args.source:
        try:
            fleets, boot_s = kept(args.source)
        except RuntimeError as error:
            sys.stderr.write(f"bench provision: {error}\n")
            return 1
    else:
        boot_s = args.boot_s
        fleets, failure = measure(args.replicas, boot_s=boot_s, variants=not args.plain)
    if fleets:
        print(f"\n{table(fleets)}")
        if not args.source:
            keep(fleets, boot_s, args.json)
        if args.plot:
            from bench.plots import draw_provision  # noqa: PLC0415 - only who wants a plot pays for matplotlib

            draw_provision(fleets, boot_s, args.plot)
    if failure:
        sys.stderr.write(f"bench provision: {failure}\n")
    return 1 if failure else 0


def measure(replicas: Sequence[int], *, boot_s: float, variants: bool) -> tuple[list[Fleet], str | None]:
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
        print(table(fleets[-1:]).splitlines()[-1], flush=True)
    return fleets, None


def keep(fleets: Sequence[Fleet], boot_s: float, path: Path) -> None:
    """Write the fleets as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"boot_s": boot_s, "fleets": [asdict(one) for one in fleets]}, indent=2) + "\n")


def kept(path: Path) -> tuple[list[Fleet], float]:
    """Return the fleets that `keep` wrote, and what their boots took. Raises RuntimeError for a file that has none."""
    try:
        raw = json.loads(path.read_text())
        fleets, boot_s = [Fleet(**one) for one in raw["fleets"]], float(raw["boot_s"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{path} is not what this bench keeps with --json: {error!r}") from None
    if not fleets:
        raise RuntimeError(f"{path} has no fleets: measure first")
    return fleets, boot_s


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench provision", description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16, 64], help="fleets (default 1 4 16 64)")
    parser.add_argument("--boot-s", type=float, default=20.0, help="what every boot takes, in seconds (default 20)")
    parser.add_argument("--plain", action="store_true", help="without the variants (published pacing, four threads)")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where the figures go (default {RESULTS})")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw them")
    parser.add_argument(
        "--from", type=Path, metavar="JSON", dest="source", help="show figures that --json kept instead of measuring"
    )
    return parser.parse_args(argv)
