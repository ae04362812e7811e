"""`python -m bench hot-path`: what a preview and an `up` take, beside programs that do nothing, in turns in one run.

Baselines: an empty program, and one with a single dynamic resource whose provider does nothing, which is what Pulumi
itself costs before a line of ours runs. Called by `bench.__main__`, which also holds the figures against budgets.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from emulator.server import EmulatorServer
from harness.stack import EMULATOR_KEY, EngineStack
from ops.report import table as markdown

EMPTY = "import pulumi\n"
ONE_DYNAMIC = """import pulumi
from nothing import Nothing

Nothing("nothing", {"value": 1})
"""
NOTHING = """from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider


class NothingProvider(ResourceProvider):
    def create(self, props):
        return CreateResult("1", props)

    def diff(self, _id, _olds, _news):
        return DiffResult(changes=False)


class Nothing(Resource):
    def __init__(self, name, props):
        super().__init__(NothingProvider(), name, props)
"""


# Calls that a wait repeats, so that their number says how long it took and nothing else.
POLLS = ("GET /api/v1/instances/", "GET /api/v0/instances/{id}/")
PREVIEW_S, UP_BEYOND_BOOT_S, CALLS = 3.0, 4.0, 6


@dataclass
class Timing:
    """Seconds of the clock and of CPU, one for each round."""

    what: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def measure(self, command: Callable[[], object]) -> None:
        """Run a command once and keep what it took, with all processes that it started."""
        before, began = os.times(), time.perf_counter()
        command()
        self.wall_s.append(time.perf_counter() - began)
        after = os.times()
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        self.cpu_s.append(cpu_s)


def program(folder: Path, url: str, venv: Path, **files: str) -> EngineStack:
    """Return a stack of a program of its own: module name -> source."""
    stack = EngineStack(folder, url, packages_listed=False, venv=venv)
    for name, source in files.items():
        path = stack.project / f"{name}.py"
        path.unlink(missing_ok=True)
        path.write_text(source)
    return stack.init()


def project(folder: Path, url: str, venv: Path, repo: Path) -> EngineStack:
    """Return a stack of a checkout, with the product's own defaults for polling, pacing and probing."""
    config = dict.fromkeys(("timeouts.poll_s", "timeouts.probe_window_s", "timeouts.api_s")) | {"emulator.pacing": True}
    return EngineStack(folder, url, config=config, packages_listed=False, venv=venv, repo=repo).init()


def measure(
    folder: Path, checkouts: dict[str, Path], *, venv: Path, rounds: int, boot_s: float
) -> tuple[list[Timing], int]:
    """Return the timings, each command once a round, in turns, and the API calls of one `up`, polls aside.

    The destroy after each `up` is not counted.
    """
    timings: dict[str, Timing] = {}

    def take(what: str, stack: EngineStack, *args: str) -> None:
        timings.setdefault(what, Timing(what)).measure(lambda: stack.ok(*args))

    with EmulatorServer(
        runtime="none", time="real", boot_s=boot_s, state_dir=folder / "emulator", keys=[EMULATOR_KEY]
    ) as market:
        running = {
            "empty program": program(folder / "empty", market.url, venv, __main__=EMPTY),
            "one dynamic resource": program(folder / "one", market.url, venv, __main__=ONE_DYNAMIC, nothing=NOTHING),
        }
        renewed = {}
        for name, repo in checkouts.items():
            running[name] = project(folder / f"running-{name}", market.url, venv, repo)
            renewed[name] = project(folder / f"renewed-{name}", market.url, venv, repo)
        for stack in running.values():
            market.control.post("requests/reset")
            stack.ok("up", "--yes", "--skip-preview")
        counts = market.control.requests()
        for _ in range(rounds):
            for name, stack in running.items():
                take(f"preview, {name}", stack, "preview", "--expect-no-changes")
            for name, stack in renewed.items():
                take(f"up with {boot_s:g} s of boot, {name}", stack, "up", "--yes")
                stack.ok("destroy", "--yes", "--skip-preview")
        for stack in running.values():
            stack.ok("destroy", "--yes", "--skip-preview")
    return list(timings.values()), sum(count for name, count in counts.items() if name not in POLLS)


def table(timings: list[Timing]) -> str:
    """Return the medians as Markdown, with the range of the rounds, and the ratio to the empty program's preview."""
    base = statistics.median(timings[0].wall_s)
    rows = []
    for one in timings:
        wall = statistics.median(one.wall_s)
        spread = f"{min(one.wall_s):.2f} to {max(one.wall_s):.2f} s"
        ratio = f"{wall / base:.2f}" if one.what.startswith("preview") else ""
        rows.append((one.what, f"{wall:.2f} s", spread, ratio, f"{statistics.median(one.cpu_s):.2f} s"))
    return markdown(("what", "median", "least to most", "to the empty program", "CPU"), rows)


def over_budget(timings: list[Timing], calls: int, *, boot_s: float) -> list[str]:
    """Return what is over its budget."""
    limits = {"preview, ": PREVIEW_S, "up ": boot_s + UP_BEYOND_BOOT_S}
    medians = {one.what: statistics.median(one.wall_s) for one in timings}
    found = [
        f"{what}: {took:.2f} s, the budget is {limit:g} s"
        for what, took in medians.items()
        for lead, limit in limits.items()
        if what.startswith(lead) and took > limit
    ]
    return found + [f"API calls of an `up`: {calls}, the budget is {CALLS}"] * (calls > CALLS)
